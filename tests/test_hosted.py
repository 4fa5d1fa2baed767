"""The set-up cell of every notebook on machines that look like Colab and Kaggle, each in a Python of its own.

Such a machine is a folder of packages that says what is installed (Colab's own list), with a pip that
writes down what it is asked for, a small torch, and the modules that only Colab or Kaggle have. Python starts
without its site-packages, so nothing else can be found; the course comes by git from a repository on disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import packaging
import pytest
from conftest import NAMES, ROOT, git
from packaging.requirements import Requirement

from mmhelpers.course import publish
from scripts import badges

PINS = dict(
    line.split("==") for line in (ROOT / "tests" / "colab_pins.txt").read_text().splitlines() if "==" in line
)
TESTED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)
# What neither Colab nor Kaggle has: all of it for notebook 08.
SERVING = {
    name: TESTED[name] for name in ("faiss-cpu", "qdrant-client", "onnx", "onnxruntime", "onnxscript")
}
SECRET = "hf_this-must-never-be-shown"
COURSE = badges.Course("work-shop/image-search", badges.Course.read(ROOT).version)

PIP = """
import json, pathlib, sys
here = pathlib.Path(__file__).resolve().parents[1]
pins = pathlib.Path(sys.argv[sys.argv.index("-c") + 1]).read_text().split()
with open(here / "pip.jsonl", "a") as out:
    print(json.dumps({"asked": [word for word in sys.argv[1:] if "==" in word], "pins": pins}), file=out)
if (here / "pip_fails").exists():
    sys.exit("ERROR: no route to any index")
for word in sys.argv[1:]:
    name, _, version = word.partition("==")
    if version:
        [old.rename(old.with_suffix(".gone")) for old in here.glob(f"{name.replace('-', '_')}-*.dist-info")]
        folder = here / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
"""
TORCH = """
class cuda:
    is_available = staticmethod(lambda: GPU)
    get_device_name = staticmethod(lambda: "Tesla T4")
"""
USERDATA = f"""
class SecretNotFoundError(Exception): pass
def get(name):
    if name == "HF_TOKEN" and HAS_SECRET:
        return {SECRET!r}
    raise SecretNotFoundError(name)
"""
SECRETS = """
class UserSecretsClient:
    def get_secret(self, name):
        raise ValueError("No user secrets exist for this notebook")
"""
DRIVE = """
import pathlib
def mount(where):
    (pathlib.Path(where) / "MyDrive").mkdir(parents=True)
    print("Mounted at", where)
"""
START = """
import json, os, runpy, sys
for name in sys.argv[2:]:
    __import__(name)  # what the host's kernel has loaded before the first cell
runpy.run_path(sys.argv[1])
names = ("PYTHONPATH", "MM_ARTIFACTS", "HF_TOKEN", "CUDA_VISIBLE_DEVICES")
with open("after.json", "w") as out:
    json.dump({name: os.environ.get(name) for name in names}, out)
"""


@dataclass
class Machine:
    """A hosted machine: `site` are its packages, `home` is where its notebooks run."""

    site: Path
    home: Path
    environment: dict[str, str]
    loaded: tuple[str, ...] = ()

    def has(self, name: str, version: str) -> None:
        folder = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def lacks(self, name: str) -> None:
        for folder in self.site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(folder)

    def module(self, name: str, text: str) -> None:
        path = self.site / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, source: str) -> tuple[int, str]:
        """The exit status of a cell, and all it printed."""
        (self.home / "cell.py").write_text(source, encoding="utf-8")
        command = [sys.executable, "-S", "-c", START, "cell.py", *self.loaded]
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    @property
    def asked(self) -> list[dict]:
        """What pip was asked for, call by call."""
        path = self.site / "pip.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    @property
    def after(self) -> dict[str, str | None]:
        """The environment that the next cells find."""
        return json.loads((self.home / "after.json").read_text())


@pytest.fixture(scope="module")
def remote(tmp_path_factory) -> Path:
    """The course as a git repository on disk, released: what the package needs of it."""
    folder = tmp_path_factory.mktemp("remote") / "course"
    shutil.copytree(
        ROOT / "mmhelpers", folder / "mmhelpers", ignore=shutil.ignore_patterns("clip_mini", "__*__")
    )
    for name in ("pyproject.toml", "requirements.txt", "constraints.txt", "mmhelpers/__init__.py"):
        shutil.copyfile(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "The course")
    git(folder, "tag", f"v{COURSE.version}")
    return folder


def machine(folder: Path, remote: Path, gpu: bool = True) -> Machine:
    site, home = folder / "site", folder / "home"
    home.mkdir(parents=True)
    made = Machine(site, home, {key: os.environ[key] for key in ("PATH", "SYSTEMROOT") if key in os.environ})
    made.environment |= {
        "HOME": str(home),
        "PYTHONPATH": str(site),
        "PIP_DRY_RUN": "1",  # whatever goes wrong here, no test may install anything
        "PIP_NO_INDEX": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{remote.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{COURSE.repository}",
    }
    for name, version in PINS.items():
        made.has(name, version)
    shutil.copytree(Path(packaging.__file__).parent, site / "packaging")
    made.module("pip/__init__", "")
    made.module("pip/__main__", PIP)
    made.module("torch", TORCH.replace("GPU", str(gpu)))
    return made


@pytest.fixture
def colab(tmp_path, remote) -> Machine:
    made = machine(tmp_path / "colab", remote)
    made.environment["COLAB_RELEASE_TAG"] = "release-colab"
    made.loaded = ("google.colab",)
    made.module("google/colab/__init__", "")
    made.module("google/colab/userdata", USERDATA.replace("HAS_SECRET", "True"))
    made.module("google/colab/drive", DRIVE)
    return made


@pytest.fixture
def kaggle(tmp_path, remote) -> Machine:
    """Its image is made from Colab's, so it has Colab's variables as well; here without any secret."""
    made = machine(tmp_path / "kaggle", remote)
    made.environment |= {"COLAB_RELEASE_TAG": "release-colab", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
    made.lacks("sentence-transformers")
    made.lacks("umap-learn")
    made.module("kaggle_secrets", SECRETS)
    return made


def set_up(name: str = NAMES[0], course: badges.Course = COURSE, **settings: str) -> str:
    """The set-up cell of a notebook in a fork of the course, with variables set by the learner."""
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    source = publish.code_cells(badges.with_set_up(book, name, course))[0].source
    for key, value in settings.items():
        assert f'{key} = ""' in source
        source = source.replace(f'{key} = ""', f'{key} = "{value}"')
    return source


def only(packages: dict[str, str]) -> list[dict]:
    """pip asked once, for just these, with torch, numpy and the kernel held."""
    held = [f"{name}=={PINS[name]}" for name in hosted.KEPT]
    return [{"asked": [f"{name}=={version}" for name, version in packages.items()], "pins": held}]


@pytest.mark.parametrize("name", NAMES)
def test_every_notebook_sets_up_colab(colab, name):
    status, said = colab.run(set_up(name))
    assert status == 0, said
    tested = TESTED["sentence-transformers"]
    assert colab.asked == only({"sentence-transformers": tested} | SERVING)
    assert said.splitlines() == [
        f"OK    course {COURSE.version}",
        f"      installing {', '.join(('sentence-transformers', *SERVING))}: a minute or two",
        f"OK    sentence-transformers {tested} (was {PINS['sentence-transformers']})",
        *(f"OK    {package} {version} (new)" for package, version in SERVING.items()),
        "OK    Hub token: found",
        "OK    GPU Tesla T4",
    ]
    assert colab.after["HF_TOKEN"] == SECRET
    assert colab.after["PYTHONPATH"].split(os.pathsep) == [str(colab.home / "course"), str(colab.site)]
    assert colab.after["MM_ARTIFACTS"] is None and colab.after["CUDA_VISIBLE_DEVICES"] is None

    # The session is restarted, or the cell run again: nothing is fetched or installed twice.
    again, said = colab.run(set_up(name))
    assert again == 0 and "nothing to install" in said and len(colab.asked) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_notebook_sets_up_kaggle(kaggle, name):
    status, said = kaggle.run(set_up(name))
    assert status == 0, said
    wanted = ("sentence-transformers", "umap-learn")
    assert kaggle.asked == only({package: TESTED[package] for package in wanted} | SERVING)
    assert f"OK    umap-learn {TESTED['umap-learn']} (new)" in said
    assert "Hub token: none, which is fine" in said and kaggle.after["HF_TOKEN"] is None
    assert kaggle.after["CUDA_VISIBLE_DEVICES"] == "0", "one of its two GPUs"


def test_artefacts_are_kept_on_drive_on_request(colab, kaggle):
    status, said = colab.run(set_up(DRIVE="courses/image search"))
    kept = colab.home / "drive" / "MyDrive" / "courses" / "image search"
    assert status == 0 and kept.is_dir() and colab.after["MM_ARTIFACTS"] == str(kept)
    assert "kept on your Drive, in courses/image search" in said
    status, said = colab.run(set_up(DRIVE="../elsewhere"))
    assert status and "name a folder inside your Drive" in said
    status, said = kaggle.run(set_up(DRIVE="image-search"))
    assert status == 0 and "DRIVE is for Colab" in said and kaggle.after["MM_ARTIFACTS"] is None


def test_a_token_from_the_environment_comes_first_and_none_is_ever_shown(colab):
    colab.environment["HF_TOKEN"] = "hf_from-the-environment"
    status, said = colab.run(set_up())
    assert status == 0 and colab.after["HF_TOKEN"] == "hf_from-the-environment"
    assert "hf_" not in said
    del colab.environment["HF_TOKEN"]
    status, said = colab.run(set_up())
    assert colab.after["HF_TOKEN"] == SECRET and "hf_" not in said
    colab.module("google/colab/userdata", USERDATA.replace("HAS_SECRET", "False"))
    status, said = colab.run(set_up())
    assert status == 0 and colab.after["HF_TOKEN"] is None and "Hub token: none" in said


def test_without_a_gpu_it_says_where_to_choose_one_and_goes_on(tmp_path, remote, colab, kaggle):
    for made, menu in ((colab, "Runtime > Change runtime type"), (kaggle, "Settings > Accelerator")):
        made.module("torch", TORCH.replace("GPU", "False"))
        status, said = made.run(set_up())
        assert status == 0 and f"TO DO no GPU: {menu}" in said


def test_too_little_disk_is_said_before_any_work(colab):
    little = "import shutil; shutil.disk_usage = lambda path: type('Usage', (), {'free': FREE})\n"
    status, said = colab.run(little.replace("FREE", "1_234_000_000") + set_up())
    assert status == 0 and "TO DO 1.2 GB of disk are free, 5 are better: delete what you" in said
    status, said = colab.run(little.replace("FREE", "60_000_000_000") + set_up())
    assert status == 0 and "disk" not in said


def test_a_library_that_is_loaded_already_asks_for_a_restart(colab):
    colab.module("sentence_transformers", f'__version__ = "{PINS["sentence-transformers"]}"')
    colab.loaded += ("sentence_transformers",)
    status, said = colab.run(set_up())
    assert status and "An older sentence-transformers is loaded in this session already" in said
    assert "Restart (Runtime > Restart session) and run this cell again" in said
    colab.loaded = ("google.colab",)
    status, said = colab.run(set_up())
    assert status == 0, "after the restart"


@pytest.mark.parametrize(("package", "version"), [("torch", "2.1.0+cu118"), ("numpy", "1.26.4")])
def test_an_old_torch_or_numpy_is_named_and_never_replaced(colab, package, version):
    colab.lacks(package)
    colab.has(package, version)
    status, said = colab.run(set_up())
    assert status and f"This machine has {package} {version}, the course needs >=2" in said
    assert "choose a newer runtime" in said and colab.asked == []


def test_a_pip_that_fails_is_quoted(kaggle):
    (kaggle.site / "pip_fails").touch()
    status, said = kaggle.run(set_up())
    assert status and "no route to any index" in said and "Settings > Internet" in said


def test_a_version_that_is_not_released_yet_takes_the_default_branch(colab, remote):
    git(remote, "tag", "-d", f"v{COURSE.version}")
    try:
        status, said = colab.run(set_up())
    finally:
        git(remote, "tag", f"v{COURSE.version}")
    assert status == 0, said
    assert f"the newest state (there is no tag v{COURSE.version} yet)" in said


def test_a_notebook_of_another_version_says_so(colab):
    status, said = colab.run(set_up(course=badges.Course(COURSE.repository, "99.0")))
    assert status and f"of version 99.0, the course in course/ of {COURSE.version}" in said
    assert "Open the notebook anew" in said and colab.asked == []


def test_the_tag_is_what_is_fetched_when_the_branch_has_moved_on(colab, remote, tmp_path):
    moved = tmp_path / "moved"
    subprocess.run(["git", "clone", "-q", str(remote), str(moved)], check=True)
    (moved / "NEWER").touch()
    git(moved, "add", "-A")
    git(moved, "commit", "-qm", "Newer")
    colab.environment["GIT_CONFIG_KEY_0"] = f"url.{moved.as_uri()}.insteadOf"
    status, said = colab.run(set_up())
    assert status == 0, said
    assert (colab.home / "course").is_dir() and not (colab.home / "course" / "NEWER").exists()


def test_a_wrong_address_shows_what_git_says(colab, tmp_path):
    colab.environment["GIT_CONFIG_KEY_0"] = f"url.{(tmp_path / 'nowhere').as_uri()}.insteadOf"
    status, said = colab.run(set_up())
    assert status and "nowhere" in said and "No module named 'mmhelpers'" in said
    assert "see what git says above" in said


def test_the_placeholder_is_refused(colab):
    status, said = colab.run(set_up(course=badges.Course(badges.PLACEHOLDER, COURSE.version)))
    assert (
        status
        and said.strip() == "Put the course's owner/name on GitHub into REPOSITORY above, and run again."
    )
    assert not (colab.home / "course").exists()


def test_a_notebook_that_another_one_runs_fetches_nothing(colab, remote):
    """The runner starts it in course/notebooks, in Colab's own kernel, with the environment of its parent."""
    colab.environment |= {"MM_CHAIN": "01", "PYTHONPATH": f"{remote}{os.pathsep}{colab.site}"}
    status, said = colab.run(set_up())
    assert (status, said) == (0, "") and colab.asked == [] and not (colab.home / "course").exists()


def test_on_a_machine_of_ones_own_nothing_happens(colab, remote):
    colab.loaded = ()
    colab.environment["PYTHONPATH"] += f"{os.pathsep}{remote}"
    assert colab.run(set_up(DRIVE="image-search")) == (0, "")
    assert colab.asked == [] and not (colab.home / "course").exists()


def test_what_the_course_needs_is_what_colab_has_but_for_one_and_what_is_new():
    """By the numbers alone, for each of our lower bounds; `make compat` asks pip's resolver as well."""
    wanted = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    lacking = []
    for requirement in map(Requirement, filter(None, wanted)):
        here = PINS.get(requirement.name, "0").split("+")[0]
        if not requirement.specifier.contains(here) and requirement.name not in hosted.NOT_HERE:
            lacking.append(requirement.name)
    assert lacking == ["sentence-transformers", *SERVING]


def test_what_is_not_installed_there_is_needed_by_no_notebook():
    names = {Requirement(line).name for line in _lines(ROOT / "requirements.txt")}
    assert set(hosted.KEPT) | set(hosted.NOT_HERE) <= names
    for name in NAMES:
        book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        code = "\n".join(cell.source for cell in publish.code_cells(book))
        assert not any(f"import {package.replace('-', '_')}" in code for package in hosted.NOT_HERE)


def _lines(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]
