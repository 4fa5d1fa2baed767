"""Colab and Kaggle: what the first cell of every notebook calls, once pip has installed the course.

Nothing is installed here, and on any other machine nothing happens.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOM = 5.0  # GB for models and artefacts of the gpu profile
RESTART = {"Colab": "Runtime > Restart session", "Kaggle": "Run > Restart & clear cell outputs"}
CHOOSE_GPU = {
    "Colab": "Runtime > Change runtime type > T4 GPU", "Kaggle": "Settings > Accelerator > GPU T4 x2",
}  # fmt: skip


def host() -> str:
    """The host by name, "Colab" or "Kaggle"; "" on a machine of your own.

    Kaggle's image is built on Colab's and has its variables, so that Kaggle is asked for first.
    """
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "Kaggle"
    return "Colab" if "google.colab" in sys.modules else ""


def set_up(drive: str = "") -> None:
    """Say whether a hosted notebook is ready, line by line: OK, or what to do.

    Args:
        drive: on Colab, a folder of your Google Drive that keeps the artefacts; "" for none.

    Raises:
        SystemExit: the notebook cannot go on; the message says what to do. "Run all" stops here.
    """
    name = host()
    if not name or os.environ.get("MM_CHAIN"):  # a notebook that another one runs: all is said
        return
    restart = f"Restart ({RESTART[name]}) and run this cell again."
    for outdated in _outdated():
        raise SystemExit(f"{outdated}. {restart}")
    print(f"OK    course {metadata.version('mmhelpers')}, libraries as it needs them")
    if token := secret("HF_TOKEN"):
        os.environ["HF_TOKEN"] = token
    print(f"OK    Hub token: {'found' if token else 'none, which is fine: only publishing needs one'}")
    if drive and name == "Colab":
        mount = Path("drive").resolve()
        importlib.import_module("google.colab.drive").mount(str(mount))  # asks for permission in the browser
        os.environ["MM_ARTIFACTS"] = str(mount / "MyDrive" / drive)
        print(f"OK    what you make is kept on your Drive, in {drive}")
    # Kaggle has two T4: the trainers would split each batch over them, and its in-batch negatives with it.
    if name == "Kaggle":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        print(f"TO DO no GPU: {CHOOSE_GPU[name]}, then run again; without one it runs at laptop size")
    elif torch.cuda.device_count() > 1:  # they were in use before this cell
        print(f"TO DO the course trains on one GPU, this session has several. {restart}")
    else:
        print(f"OK    GPU {torch.cuda.get_device_name()}")
    if (free := shutil.disk_usage(Path.cwd()).free / 1e9) < ROOM:
        print(f"TO DO {free:.1f} GB of disk are free, {ROOM:.0f} are better: delete what you do not need")


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


def _outdated() -> list[str]:
    """Sentences on libraries that were loaded before pip installed what the course needs."""
    wanted = [Requirement(line) for line in metadata.requires("mmhelpers") or []]
    modules = {need: sys.modules.get(need.name.replace("-", "_")) for need in wanted}
    loaded = {need: getattr(module, "__version__", "") for need, module in modules.items()}
    return [
        f"{need.name} {version} is loaded in this session, the course needs {need.specifier}"
        for need, version in loaded.items()
        if version and not need.specifier.contains(version, prereleases=True)
    ]
