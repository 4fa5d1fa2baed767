"""Colab and Kaggle: what the set-up cell of every notebook calls once it has fetched the course.

Nothing happens on any other machine. What a running kernel stands on (torch, numpy) is never installed: a
numpy replaced under a live kernel breaks it, another torch no longer fits its torchvision.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

COURSE = Path(__file__).resolve().parents[2]
KEPT = ("torch", "numpy", "ipykernel")  # the kernel's own
NOT_HERE = ("jupyterlab", "ir-measures", "pytest", "ruff")  # for `make lab` and `make test`
IMPORTED_AS = {"pillow": "PIL", "umap-learn": "umap"}
ROOM = 5.0  # GB for libraries, models and artefacts of the gpu profile
WHERE = {
    "Colab": {"restart": "Runtime > Restart session", "gpu": "Runtime > Change runtime type > T4 GPU"},
    "Kaggle": {"restart": "Run > Restart & clear cell outputs", "gpu": "Settings > Accelerator > GPU T4 x2"},
}


def host() -> str:
    """The host by name, "Colab" or "Kaggle"; "" on a machine of your own.

    Kaggle's image is built on Colab's and has its variables, so that Kaggle is asked for first.
    """
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "Kaggle"
    return "Colab" if "google.colab" in sys.modules else ""


def set_up(version: str, drive: str = "") -> None:
    """Make a hosted notebook ready, and print OK or what to do, line by line.

    Args:
        version: of the course that the notebook belongs to.
        drive: on Colab, the folder of the user's Google Drive that keeps the artefacts; "" for none.

    Raises:
        SystemExit: the notebook cannot go on; the message says what to do. "Run all" stops here.
    """
    name = host()
    if not name or os.environ.get("MM_CHAIN"):  # a notebook that another one runs: all is there
        return
    _course(version)
    # A notebook that runs another one starts a new Python, which has to find the course as well.
    paths = [str(COURSE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    _install(name)
    _token()
    _keep_on_drive(name, drive)
    _machine(name)


def missing(requirements: str) -> list[str]:
    """The names in the text of a requirements.txt that this machine lacks, or has too old.

    Raises:
        SystemExit: torch, numpy or the kernel are too old; they are never replaced.
    """
    names = []
    for line in requirements.splitlines():
        if not (line := line.split("#")[0].strip()):
            continue
        wanted = Requirement(line)
        found = _version(wanted.name)
        if wanted.name in NOT_HERE or (found and wanted.specifier.contains(found, prereleases=True)):
            continue
        if wanted.name in KEPT:
            raise SystemExit(
                f"This machine has {wanted.name} {found}, the course needs {wanted.specifier}. Replacing it "
                "would break the session: choose a newer runtime version, or an older version of the course."
            )
        names.append(wanted.name)
    return names


def secret(name: str) -> str | None:
    """A key or token: from the environment, else from the host's secrets; None where there is none."""
    if value := os.environ.get(name):
        return value
    try:
        if host() == "Colab":
            return importlib.import_module("google.colab.userdata").get(name) or None
        if host() == "Kaggle":
            return importlib.import_module("kaggle_secrets").UserSecretsClient().get_secret(name) or None
    except Exception:  # no such secret, no access given, no answer: each host has its own errors
        pass
    return None


def _course(version: str) -> None:
    """Say which course was fetched, and whether it is the notebook's."""
    here = tomllib.loads((COURSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if here != version:
        raise SystemExit(
            f"This notebook is of version {version}, the course in {COURSE.name}/ of {here}. Open the "
            "notebook anew from the course's page, in a new session."
        )
    git = ["git", "-C", str(COURSE), "tag", "--points-at", "HEAD"]
    tags = subprocess.run(git, capture_output=True, text=True).stdout.split()
    no_tag = f", the newest state (there is no tag v{version} yet)"
    print(f"OK    course {here}{'' if f'v{version}' in tags else no_tag}")


def _install(name: str) -> None:
    names = missing((COURSE / "requirements.txt").read_text(encoding="utf-8"))
    before = {name: _version(name) for name in names}
    if names:
        print(f"      installing {', '.join(names)}: a minute or two", flush=True)
        _pip(names)
        importlib.invalidate_caches()
        if still := missing((COURSE / "requirements.txt").read_text(encoding="utf-8")):
            raise SystemExit(f"Installed, and still not found: {', '.join(still)}. {_restart(name)}")
    for package in names:
        was = f"was {before[package]}" if before[package] else "new"
        print(f"OK    {package} {_version(package)} ({was})")
    for package in names:
        module = sys.modules.get(IMPORTED_AS.get(package, package.replace("-", "_")))
        if module and getattr(module, "__version__", "") != _version(package):
            raise SystemExit(f"An older {package} is loaded in this session already. {_restart(name)}")
    if not names:
        print("OK    nothing to install")


def _pip(names: list[str]) -> None:
    """Install packages in the versions that were tested; torch, numpy and the kernel stay as they are."""
    lines = (COURSE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    wanted = [f"{name}=={tested[name]}" if name in tested else name for name in names]
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "kept.txt"
        pins.write_text("".join(f"{name}=={_version(name)}\n" for name in KEPT if _version(name)))
        command = [sys.executable, "-m", "pip", "install", "-q", *wanted, "-c", str(pins)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(
            f"{done.stdout[-2000:]}\npip could not install {' '.join(wanted)}; its words are above. Is the "
            "network on (Kaggle: Settings > Internet)?"
        )


def _token() -> None:
    """HF_TOKEN into the environment, where the Hub's library looks for it; never shown."""
    if token := secret("HF_TOKEN"):
        os.environ["HF_TOKEN"] = token
    found = "found" if token else "none, which is fine: only publishing needs one"
    print(f"OK    Hub token: {found}")


def _keep_on_drive(name: str, folder: str) -> None:
    if not folder:
        return
    if name != "Colab":
        print("TO DO DRIVE is for Colab. Kaggle keeps what you make with: Save version")
        return
    if Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise SystemExit(f'DRIVE = "{folder}": name a folder inside your Drive, such as "image-search"')
    mount = Path("drive").resolve()
    importlib.import_module("google.colab.drive").mount(str(mount))  # asks for permission in the browser
    artifacts = mount / "MyDrive" / folder
    artifacts.mkdir(parents=True, exist_ok=True)
    os.environ["MM_ARTIFACTS"] = str(artifacts)
    print(f"OK    what you make is kept on your Drive, in {folder}")


def _machine(name: str) -> None:
    """A GPU and room on the disk: neither stops the notebook."""
    # Kaggle has two T4: the trainers would split each batch over them, and its in-batch negatives with it.
    if name == "Kaggle" and "torch" not in sys.modules:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        print(f"OK    GPU {torch.cuda.get_device_name()}")
    else:
        print(
            f"TO DO no GPU: {WHERE[name]['gpu']}, then run again from the top. Without one the notebook "
            "runs at laptop size."
        )
    free = shutil.disk_usage(COURSE).free / 1e9
    if free < ROOM:
        print(f"TO DO {free:.1f} GB of disk are free, {ROOM:.0f} are better: delete what you do not need")


def _restart(name: str) -> str:
    return f"Restart ({WHERE[name]['restart']}) and run this cell again."


def _version(package: str) -> str | None:
    """The installed version as the files on disk say, which a running session may not have loaded."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
