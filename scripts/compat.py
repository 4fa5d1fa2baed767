"""Does what the notebooks and mmhelpers call exist in the oldest and the newest libraries?

    python scripts/compat.py              # make compat; needs the network, some minutes the first time
    python scripts/compat.py --list       # the calls that are checked

Three answers. In two environments under build/compat, with the lower bounds of requirements.txt and with
the newest releases, every import can be made, every name is there and every call fits the signature. And
pip's resolver says that on Colab, of what is there, only sentence-transformers has to change.

An environment holds only what differs from the Python that runs this; torch and the rest are taken from here.
What is called is read from the code (scripts/calls.py), not kept in a list.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a file, Python looks beside it only

from scripts import calls  # noqa: E402

BUILD = ROOT / "build" / "compat"
LIBRARIES = ("sentence-transformers", "transformers", "datasets")
# Parts of torch's own build, of which Colab has another one than the index.
OF_TORCH = re.compile(r"nvidia|cuda|triton")


class CompatError(RuntimeError):
    """An environment that cannot be made, or a resolver that finds no way; the message quotes pip."""


def requirements() -> dict[str, Requirement]:
    """The lower bounds of requirements.txt by name."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = (Requirement(line) for line in (line.split("#")[0].strip() for line in lines) if line)
    return {requirement.name: requirement for requirement in found}


def oldest() -> list[str]:
    """The libraries at their lower bounds, for pip."""
    return [str(requirements()[name]).replace(">=", "==") for name in LIBRARIES]


def environment(name: str, wanted: list[str], options: tuple[str, ...] = ()) -> Path:
    """The Python of an environment with these packages over the ones of the Python that runs us.

    Made once: it is kept as long as the same is wanted, the newest releases for a day.

    Raises:
        CompatError: pip could not install them.
    """
    folder = BUILD / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "wanted.json"
    fresh = stamp.is_file() and (not options or time.time() - stamp.stat().st_mtime < 86400)
    if fresh and json.loads(stamp.read_text()) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    # Looked up after its own packages; so torch need not be installed three times.
    (Path(site) / "below.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    _pip(["--python", str(python), "install", *options, *wanted])
    stamp.write_text(json.dumps(wanted))
    return python


def _pip(words: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    if done.returncode:
        raise CompatError(f"{done.stdout[-3000:]}\npip failed; its words are above")


def probe(python: Path, claims: list[dict[str, Any]]) -> dict[str, Any]:
    """What an environment says to each claim: versions, and for each a verdict (see scripts/probe.py)."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [str(python), str(ROOT / "scripts" / "probe.py")]
    text = json.dumps({"claims": claims, "libraries": LIBRARIES})
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        raise CompatError(f"{done.stderr[-3000:]}\n{python} could not look; its words are above")
    return json.loads(done.stdout.splitlines()[-1])


def drift(claims: list[dict[str, Any]], answers: dict[str, dict[str, Any]]) -> list[str]:
    """Sentences about what does not hold everywhere.

    A claim fails where an environment contradicts it, and where one lacks what another one has.
    """
    found = []
    for number, claim in enumerate(claims):
        verdicts = {name: answer["verdicts"][number] for name, answer in answers.items()}
        there = ", ".join(name for name, verdict in verdicts.items() if verdict == "ok")
        for name, verdict in verdicts.items():
            if verdict == "absent" and there:
                found.append(f"{claim['where']}: {claim['text']}: not in {name}, but in {there}")
            elif verdict not in ("ok", "unknown", "absent"):
                found.append(f"{claim['where']}: {claim['text']}: {name}: {verdict}")
    return found


def resolve_beside_colab(pins_file: Path) -> dict[str, str]:
    """What pip would have on Colab after the set-up cell: versions by name.

    pip resolves what Colab lacks or has too old, in the versions of constraints.txt, and all that this
    needs, for Python 3.13, with every pin of Colab's but that of sentence-transformers held.

    Raises:
        CompatError: no set of versions fits.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    pins, report = BUILD / "colab.txt", BUILD / "colab.json"
    lines = [line.split("+")[0] for line in pins_file.read_text().splitlines() if "==" in line]
    held = [line for line in lines if not line.startswith("sentence-transformers==")]
    pins.write_text("\n".join(line for line in held if not OF_TORCH.match(line)) + "\n")
    there = dict(line.split("==") for line in lines)
    tested = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    wanted = [
        f"{name}=={tested[name]}"
        for name, requirement in requirements().items()
        if name not in hosted.NOT_HERE and not requirement.specifier.contains(there.get(name, "0"))
    ]
    where = ["--python-version", "3.13", "--only-binary=:all:", "--target", str(BUILD / "nothing")]
    if sys.platform != "linux":
        where += ["--platform", "manylinux_2_28_x86_64"]
    _pip(
        [
            "install",
            "--dry-run",
            "--ignore-installed",
            *where,
            "--report",
            str(report),
            "-c",
            str(pins),
            *wanted,
        ]
    )
    items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {_name(item["metadata"]["name"]): item["metadata"]["version"] for item in items}


def changes_on_colab(after: dict[str, str], pins_file: Path) -> dict[str, tuple[str | None, str]]:
    """What differs from Colab's pins: (before, after) by name; None where Colab lacks it."""
    before = dict(line.split("==") for line in pins_file.read_text().splitlines() if "==" in line)
    before = {_name(name): version for name, version in before.items()}
    return {
        name: (before.get(name), version)
        for name, version in after.items()
        if not OF_TORCH.match(name) and version != before.get(name, "").split("+")[0]
    }


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the calls that are checked, and stop")
    options = parser.parse_args(argv)
    claims = calls.collect(ROOT)
    if options.list:
        print("\n".join(f"{claim['where']}: {claim['text']}" for claim in claims))
        return 0
    began, newest = time.monotonic(), [re.sub(r"[<>=].*", "", wanted) for wanted in oldest()]
    pins = ROOT / "tests" / "colab_pins.txt"
    try:
        with ThreadPoolExecutor() as pool:  # they wait for the network, mostly
            jobs = {
                "oldest": pool.submit(environment, "oldest", oldest()),
                "newest": pool.submit(environment, "newest", newest, ("--upgrade",)),
            }
            colab = pool.submit(resolve_beside_colab, pins)
        answers = {name: probe(job.result(), claims) for name, job in jobs.items()}
        changes = changes_on_colab(colab.result(), pins)
    except CompatError as error:
        print(error, file=sys.stderr)
        return 2
    for name, answer in answers.items():
        seen = Counter("checked" if verdict == "ok" else "unknown" for verdict in answer["verdicts"])
        versions = ", ".join(f"{library} {version}" for library, version in answer["versions"].items())
        print(f"{name}: {versions}: {seen['checked']} uses checked, {seen['unknown']} beyond reach")
    said = [f"{name} {old} -> {new}" if old else f"{name} {new}" for name, (old, new) in changes.items()]
    print(f"Colab: {', '.join(said)}")
    problems = drift(claims, answers)
    if {name for name, (old, _) in changes.items() if old} != {"sentence-transformers"}:
        problems.append("Colab: of what is there, only sentence-transformers may change")
    print("\n".join(problems) or f"All of it holds. {time.monotonic() - began:.0f} seconds.")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
