"""How large a run is, on what device, with which base model, on whose pictures.

Three profiles (smoke, laptop, gpu) and one data source, chosen from the machine and overridden by the
environment: MM_PROFILE, MM_DATA, MM_BASE_MODEL. Imports nothing of ours, and torch only for the device.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

PACKAGE = Path(__file__).resolve().parents[1]
CLIP_MINI = PACKAGE / "models" / "clip_mini"
SHOP = "shop"
TEXTS = {".csv", ".json", ".jsonl", ".tsv", ".txt"}  # files of a data folder that count by their contents


class ProfileError(ValueError):
    """A setting from outside that cannot be used; the message lists what can."""


@dataclass(frozen=True)
class Profile:
    """The sizes of one run."""

    name: str
    base_model: str  # folder or Hub id (with @revision where needed) of the model that is finetuned
    image_size: int  # side of the drawn pictures, pixels
    n_train: int  # pictures of each split
    n_validation: int
    n_test: int
    n_queries: int  # shoppers' queries of the test split, and of the others
    n_queries_validation: int
    n_queries_train: int
    batch_size: int  # pairs in a training batch
    finetune_epochs: float  # passes over the training pairs in notebook 02
    study_steps: int  # training steps of each small comparison (batch size, sampler, strategies)
    hard_negative_epochs: int  # passes in notebook 03, with and without negatives
    reranker_steps: int
    candidates: int  # pictures that the reranker orders for each query
    seed: int  # of everything
    minutes: tuple[float, ...]  # expected, for each notebook from 01 on: two CPU cores (gpu: one T4)

    @property
    def base_name(self) -> str:
        """The base model as it may be shown: the name of a folder, or the Hub id."""
        folder = Path(self.base_model)
        return folder.name if folder.is_absolute() else self.base_model

    @property
    def device(self) -> str:
        """The word for torch, "cuda", "mps" or "cpu": the same choice as the trainers of transformers."""
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def dtype(self) -> str:
        """The mixed precision as a word: "bfloat16", "float16" or "float32"."""
        if self.device != "cuda":
            return "float32"
        import torch

        # A T4 has compute capability 7.5 and only emulates bfloat16.
        return "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float16"

    @property
    def bf16(self) -> bool:
        """Whether to train in bfloat16."""
        return self.dtype == "bfloat16"

    @property
    def fp16(self) -> bool:
        """Whether to train in float16."""
        return self.dtype == "float16"


SMOKE = Profile(
    name="smoke", base_model=str(CLIP_MINI), image_size=96, n_train=160, n_validation=48, n_test=64,
    n_queries=40, n_queries_validation=20, n_queries_train=60, batch_size=16, finetune_epochs=1,
    study_steps=4, hard_negative_epochs=1, reranker_steps=6, candidates=10, seed=0,
    minutes=(0.3, 0.5, 0.4, 0.4, 0.5, 0.7, 0.3, 0.7),
)  # fmt: skip
LAPTOP = Profile(
    name="laptop", base_model=str(CLIP_MINI), image_size=96, n_train=5000, n_validation=500, n_test=1000,
    n_queries=1000, n_queries_validation=200, n_queries_train=8000, batch_size=128, finetune_epochs=0.6,
    study_steps=40, hard_negative_epochs=1, reranker_steps=1700, candidates=100, seed=0,
    minutes=(1, 2.7, 2.3, 3, 0.6, 3.4, 2.5, 2),
)  # fmt: skip
GPU = Profile(  # of its base model, the pull request that has safetensors
    name="gpu", base_model="openai/clip-vit-base-patch32@refs/pr/15", image_size=224, n_train=12000,
    n_validation=1000, n_test=2000, n_queries=2000, n_queries_validation=400, n_queries_train=16000,
    batch_size=256, finetune_epochs=3.5, study_steps=80, hard_negative_epochs=2, reranker_steps=2500,
    candidates=100, seed=0, minutes=(6, 12, 12, 12, 5, 10, 8, 8),
)  # fmt: skip
PROFILES = {profile.name: profile for profile in (SMOKE, LAPTOP, GPU)}


def repository() -> Path:
    """The checkout, or else the working directory: where artifacts/, build/ and downloads/ go."""
    for folder in (PACKAGE.parent, Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return Path.cwd()


def notebooks() -> Path:
    """The folder of the notebooks: MM_NOTEBOOKS, those installed with the package, or the checkout's."""
    installed = PACKAGE / "notebooks"
    home = installed if installed.is_dir() else repository() / "notebooks"
    return Path(os.environ.get("MM_NOTEBOOKS") or home).resolve()


def downloads() -> Path:
    """Where fetched data sets are kept: MM_DOWNLOADS, or the repository's downloads/."""
    return Path(os.environ.get("MM_DOWNLOADS") or repository() / "downloads").resolve()


def active(name: str | None = None) -> Profile:
    """The profile of this run.

    Args: name: overrides MM_PROFILE; with neither, a machine with CUDA gets gpu, any other laptop.
    Raises: ProfileError: no such profile, or MM_BASE_MODEL is neither a folder nor a Hub id.
    """
    name = name or os.environ.get("MM_PROFILE") or ("gpu" if LAPTOP.device == "cuda" else "laptop")
    if name not in PROFILES:
        raise ProfileError(f"PROFILE {name!r} is unknown; choose one of {', '.join(PROFILES)}")
    if not (base := os.environ.get("MM_BASE_MODEL")):
        return PROFILES[name]
    if (folder := _found(base)) is not None and folder.is_dir():
        return replace(PROFILES[name], base_model=str(folder))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", base):
        return replace(PROFILES[name], base_model=base)
    raise ProfileError(
        f"MM_BASE_MODEL {base!r} is neither a folder nor a Hub id such as openai/clip-vit-large"
    )


def data_source(value: str | None = None) -> str:
    """Whose pictures: "shop", "hub:<id>", or the absolute path of a folder or a table, perhaps with ?options.

    Args:
        value: overrides MM_DATA. A relative path starts where the command was typed, or at the repository:
            a notebook's kernel runs in `notebooks/`.

    Raises: ProfileError: there is no such file or folder.
    """
    value = value or os.environ.get("MM_DATA") or SHOP
    place, mark, options = value.partition("?")
    if value == SHOP or place.startswith("hub:"):
        return value
    if (found := _found(place)) is None:
        raise ProfileError(
            f"DATA {value!r}: there is no such file or folder (looked from {Path.cwd()}); choose {SHOP!r}, "
            "a folder with pictures and their texts, a table, or hub:owner/name"
        )
    return f"{found}{mark}{options}"


def with_options(source: str) -> tuple[str, dict[str, str]]:
    """A source and the options behind its question mark: "a.csv?text=title" -> "a.csv", {"text": "title"}."""
    place, _, options = source.partition("?")
    return place, dict(parse_qsl(options, keep_blank_values=True))


def data_slug(source: str) -> str:
    """The source as a folder name: "shop", the folder's own name, or the id, in plain letters."""
    name = Path(source).name if Path(source).is_absolute() else source
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "folder"
    return slug if len(slug) <= 60 else f"{slug[:50]}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def fingerprint(profile: Profile, source: str) -> str:
    """16 hex digits for everything outside the notebooks that decides results.

    That is the profile's sizes, the base model (a folder by its files, so that it may move) and the data (a
    folder by its tables and the names and sizes of its other files; what is fetched by its name).
    """
    parts = asdict(profile)
    del parts["minutes"]
    if (base := Path(profile.base_model)).is_dir():
        parts["base_model"] = _digest(base, whole=True)
    place, parts["options"] = with_options(source)
    parts["data"] = _digest(Path(place)) if Path(place).is_absolute() else place
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:16]


def _digest(place: Path, whole: bool = False) -> str:
    """A file or folder by names and sizes, and by the contents of its tables and texts, or of all files."""
    digest = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(place.rglob("*")):
        name = path.relative_to(place)
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in name.parts):
            stat = path.stat()
            digest.update(f"{name.as_posix()} {stat.st_size}\n".encode())
            if whole or path.suffix in TEXTS or path == place:
                digest.update(_contents(path, stat.st_size, stat.st_mtime_ns).encode())
    return digest.hexdigest()


@functools.cache
def _contents(path: Path, size: int, modified: int) -> str:
    """The hash of a file: read once a process, and never as a whole into memory."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _found(value: str) -> Path | None:
    places = (base / Path(value).expanduser() for base in (Path.cwd(), repository()))
    return next((place.resolve() for place in places if place.exists()), None)
