"""Colab and Kaggle: what the first cell of every notebook calls, once pip has installed the course."""

from __future__ import annotations

import os
import sys
from importlib import metadata

from packaging.requirements import Requirement

RESTART = {"Colab": "Runtime > Restart session", "Kaggle": "Run > Restart & clear cell outputs"}
CHOOSE_GPU = {
    "Colab": "Runtime > Change runtime type > T4 GPU", "Kaggle": "Settings > Accelerator > GPU T4 x2",
}  # fmt: skip


def host() -> str:
    """The host by name, "Colab" or "Kaggle"; "" on a machine of your own."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:  # first: its image is built on Colab's
        return "Kaggle"
    return "Colab" if "google.colab" in sys.modules else ""


def set_up() -> None:
    """Say whether a hosted notebook is ready, line by line: OK, or what to do. Elsewhere nothing happens."""
    name = host()
    if not name or os.environ.get("MM_CHAIN"):  # a notebook that another one runs: all is said
        return
    restart = f"Restart ({RESTART[name]}) and run this cell again."
    for outdated in _outdated():
        raise SystemExit(f"{outdated}. {restart}")
    print(f"OK    course {metadata.version('mmhelpers')}, libraries as it needs them")
    # Kaggle has two T4: the trainers would split each batch over them, and its in-batch negatives with it.
    if name == "Kaggle":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    import torch  # sees the line above

    if not torch.cuda.is_available():
        print(f"TO DO no GPU: {CHOOSE_GPU[name]}, then run again; without one it runs at laptop size")
    elif torch.cuda.device_count() > 1:  # they were in use before this cell
        print(f"TO DO the course trains on one GPU, this session has several. {restart}")
    else:
        print(f"OK    GPU {torch.cuda.get_device_name()}")


def _outdated() -> list[str]:
    """Sentences on libraries that were loaded before pip installed what the course needs."""
    found = []
    for need in map(Requirement, metadata.requires("mmhelpers") or []):
        version = getattr(sys.modules.get(need.name.replace("-", "_")), "__version__", "")
        if version and not need.specifier.contains(version, prereleases=True):
            found.append(f"{need.name} {version} is loaded in this session, the course needs {need.specifier}")
    return found
