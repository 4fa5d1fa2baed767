"""How large a run is, on what device, with which base model, on whose pictures.

Three profiles (smoke, laptop, gpu) and one data source, chosen from the machine and overridden by the
environment: MM_PROFILE, MM_DATA, MM_BASE_MODEL. Imports nothing of ours, and torch only when asked for
the device.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

CLIP_MINI = Path(__file__).resolve().parent / "clip_mini"
CATALOGUE = "catalogue"


class ProfileError(ValueError):
    """A setting from outside that cannot be used; the message lists what can."""


@dataclass(frozen=True)
class Profile:
    """The sizes of one run.

    Args:
        base_model: folder or Hub id (with @revision where needed) of the model that is finetuned.
        image_size: side of the drawn pictures, pixels.
        n_train, n_validation, n_test: pictures in each split.
        n_queries, n_queries_validation, n_queries_train: shoppers' queries of each split.
        batch_size: pairs in a training batch.
        finetune_epochs: passes over the training pairs in notebook 02.
        study_steps: training steps of each of the small comparisons (batch size, sampler, strategies).
        hard_negative_epochs: passes in notebook 03, with and without negatives.
        reranker_steps, candidates: training steps of the reranker, and pictures that it reranks a query.
        seed: of everything.
        minutes: expected for notebooks 01 to 05, two CPU cores (gpu: one T4).
    """

    name: str
    base_model: str
    image_size: int
    n_train: int
    n_validation: int
    n_test: int
    n_queries: int
    n_queries_validation: int
    n_queries_train: int
    batch_size: int
    finetune_epochs: float
    study_steps: int
    hard_negative_epochs: int
    reranker_steps: int
    candidates: int
    seed: int
    minutes: tuple[float, ...]

    @property
    def device(self) -> str:
        """The word for torch, "cuda", "mps" or "cpu": the same choice as the trainers of transformers."""
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def bf16(self) -> bool:
        """Whether to train in bfloat16: from compute capability 8 on (a T4 has 7.5 and only emulates it)."""
        if self.device != "cuda":
            return False
        import torch

        return torch.cuda.get_device_capability()[0] >= 8

    @property
    def fp16(self) -> bool:
        """Whether to train in float16: on a GPU without bfloat16."""
        return self.device == "cuda" and not self.bf16

    @property
    def dtype(self) -> str:
        """The mixed precision as a word: "bfloat16", "float16" or "float32"."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke", base_model=str(CLIP_MINI), image_size=96,
            n_train=160, n_validation=48, n_test=64, n_queries=40, n_queries_validation=20,
            n_queries_train=60, batch_size=16, finetune_epochs=1, study_steps=4, hard_negative_epochs=1,
            reranker_steps=6, candidates=10, seed=0, minutes=(0.3, 0.6, 0.6, 0.6, 0.6),
        ),
        Profile(
            name="laptop", base_model=str(CLIP_MINI), image_size=96,
            n_train=5000, n_validation=500, n_test=1000, n_queries=1000, n_queries_validation=200,
            n_queries_train=8000, batch_size=128, finetune_epochs=1.5, study_steps=40, hard_negative_epochs=2,
            reranker_steps=1100, candidates=50, seed=0, minutes=(1, 4, 4, 4.5, 1),
        ),
        Profile(
            name="gpu", image_size=224,
            base_model="openai/clip-vit-base-patch32@refs/pr/15",  # the pull request with its safetensors
            n_train=12000, n_validation=1000, n_test=2000, n_queries=2000, n_queries_validation=400,
            n_queries_train=16000, batch_size=256, finetune_epochs=3.5, study_steps=80,
            hard_negative_epochs=2, reranker_steps=1500, candidates=100, seed=0, minutes=(6, 12, 12, 12, 5),
        ),
    )
}  # fmt: skip


def repository() -> Path:
    """The checkout: where the package lies, else the nearest folder upwards that holds `notebooks`."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here, Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return Path.cwd()


def active(name: str | None = None) -> Profile:
    """The profile of this run.

    Args:
        name: overrides MM_PROFILE; with neither, a machine with CUDA gets gpu, any other laptop.

    Raises:
        ProfileError: no such profile, or MM_BASE_MODEL is neither a folder nor a Hub id.
    """
    name = name or os.environ.get("MM_PROFILE")
    if not name:
        import torch

        name = "gpu" if torch.cuda.is_available() else "laptop"
    if name not in PROFILES:
        raise ProfileError(f"PROFILE {name!r} is unknown; choose one of {', '.join(PROFILES)}")
    base_model = os.environ.get("MM_BASE_MODEL")
    return replace(PROFILES[name], base_model=_base_model(base_model)) if base_model else PROFILES[name]


def data_source(value: str | None = None) -> str:
    """Whose pictures: "catalogue", or the absolute path of a folder with metadata.jsonl or metadata.csv.

    Args:
        value: overrides MM_DATA. A relative path starts where the command was typed; in a notebook, whose
            kernel runs in `notebooks/`, at the repository.

    Raises:
        ProfileError: neither of the two.
    """
    value = value or os.environ.get("MM_DATA") or CATALOGUE
    if value == CATALOGUE:
        return value
    folder = _folder(value)
    choices = f'choose "{CATALOGUE}", or a folder with pictures and metadata.jsonl (or metadata.csv)'
    if folder is None:
        raise ProfileError(f"DATA {value!r} is not a folder (looked from {Path.cwd()}); {choices}")
    if not any((folder / name).is_file() for name in ("metadata.jsonl", "metadata.csv")):
        raise ProfileError(f"DATA {value!r}: {folder} has no metadata.jsonl or metadata.csv; {choices}")
    return str(folder)


def data_slug(source: str) -> str:
    """The source as a folder name: "catalogue", or the folder's own name in plain letters."""
    return re.sub(r"[^a-z0-9]+", "-", Path(source).name.lower()).strip("-") or "folder"


def fingerprint(profile: Profile, source: str) -> str:
    """16 hex digits for everything outside the notebooks that decides results.

    That is the profile's sizes, the base model (a folder by its files, so that it may move) and the
    data (a folder by its metadata and the names and sizes of its other files).
    """
    sizes = {key: value for key, value in asdict(profile).items() if key not in ("minutes", "base_model")}
    digest = hashlib.sha256(repr(sorted(sizes.items())).encode())
    base = Path(profile.base_model)
    digest.update(_folder_digest(base, whole=True) if base.is_dir() else profile.base_model.encode())
    digest.update(_folder_digest(Path(source)) if source != CATALOGUE else source.encode())
    return digest.hexdigest()[:16]


def _folder_digest(folder: Path, whole: bool = False) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in name.parts):
            digest.update(f"{name.as_posix()} {path.stat().st_size}\n".encode())
            if whole or name.name.startswith("metadata."):
                digest.update(path.read_bytes())
    return digest.digest()


def _folder(value: str) -> Path | None:
    path = Path(value).expanduser()
    found = (base / path for base in (Path.cwd(), repository()) if (base / path).is_dir())
    return next((folder.resolve() for folder in found), None)


def _base_model(value: str) -> str:
    if (folder := _folder(value)) is not None:
        return str(folder)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", value):
        return value
    raise ProfileError(
        f"MM_BASE_MODEL {value!r} is neither a folder nor a Hub id such as openai/clip-vit-base-patch32"
    )
