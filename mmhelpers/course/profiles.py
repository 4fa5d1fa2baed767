"""How large a run is, on what device, with which base model, on whose pictures.

Three profiles (smoke, laptop, gpu) and one data source, chosen from the machine and overridden by the
environment: MM_PROFILE, MM_DATA, MM_BASE_MODEL. Imports nothing of ours, and torch only when asked for
the device.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

CLIP_MINI = Path(__file__).resolve().parents[1] / "models" / "clip_mini"
SHOP = "shop"
TABLES = (".csv", ".jsonl", ".parquet")


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
        minutes: expected for each notebook from 01 on, two CPU cores (gpu: one T4).
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
            reranker_steps=6, candidates=10, seed=0, minutes=(0.3, 0.5, 0.4, 0.4, 0.5, 0.7, 0.3, 0.7),
        ),
        Profile(
            name="laptop", base_model=str(CLIP_MINI), image_size=96,
            n_train=5000, n_validation=500, n_test=1000, n_queries=1000, n_queries_validation=200,
            n_queries_train=8000, batch_size=128, finetune_epochs=0.6, study_steps=40, hard_negative_epochs=1,
            reranker_steps=1700, candidates=100, seed=0, minutes=(1, 2.7, 2.3, 3, 0.6, 3.4, 2.5, 2),
        ),
        Profile(
            name="gpu", image_size=224,
            base_model="openai/clip-vit-base-patch32@refs/pr/15",  # the pull request with its safetensors
            n_train=12000, n_validation=1000, n_test=2000, n_queries=2000, n_queries_validation=400,
            n_queries_train=16000, batch_size=256, finetune_epochs=3.5, study_steps=80,
            hard_negative_epochs=2, reranker_steps=2500, candidates=100, seed=0,
            minutes=(6, 12, 12, 12, 5, 10, 8, 8),
        ),
    )
}  # fmt: skip


def repository() -> Path:
    """The checkout: where the package lies, else the nearest folder upwards that holds `notebooks`."""
    here = Path(__file__).resolve().parents[2]
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
    """Whose pictures: "catalogue", "figures", "figures:<name>", "hub:<id>", or an absolute path.

    The path is that of a folder or a table. Options may follow an id or a path, behind a question mark.

    Args:
        value: overrides MM_DATA. A relative path starts where the command was typed; in a notebook, whose
            kernel runs in `notebooks/`, at the repository.

    Raises:
        ProfileError: none of these.
    """
    value = value or os.environ.get("MM_DATA") or SHOP
    place, mark, options = value.partition("?")
    if value == SHOP or place.partition(":")[0] == "figures":
        return value
    if place.startswith("hub:"):
        copy = _found(place.removeprefix("hub:"))
        return value if copy is None else f"hub:{copy}{mark}{options}"
    if not mark and place.partition(":")[0] == "hub":
        raise ProfileError(f"DATA {value!r} lacks an id; write hub:owner/name")
    found = _found(place)
    choices = (
        f'choose "{SHOP}", or a folder with pictures and metadata.jsonl (or metadata.csv), a folder '
        f"with a folder of pictures for each class, a table ({', '.join(TABLES)}), figures, or hub:<id>"
    )
    if found is None:
        raise ProfileError(f"DATA {value!r} is not a folder (looked from {Path.cwd()}); {choices}")
    names = ("metadata.jsonl", "metadata.csv")
    if found.is_dir() and not any((found / name).is_file() for name in names) and not class_folders(found):
        raise ProfileError(f"DATA {value!r}: {found} has no metadata.jsonl or metadata.csv; {choices}")
    if found.is_file() and found.suffix not in TABLES:
        raise ProfileError(f"DATA {value!r} is not a folder, nor a table that can be read; {choices}")
    return f"{found}{mark}{options}"


def with_options(source: str) -> tuple[str, dict[str, str]]:
    """A source and the options behind its question mark: "a.csv?text=title" -> "a.csv", {"text": "title"}."""
    place, _, options = source.partition("?")
    return place, dict(parse_qsl(options, keep_blank_values=True))


def class_folders(folder: Path) -> bool:
    """Whether it is an ImageFolder: pictures in two or more of its <class>/ or <split>/<class>/."""
    found = set()
    for path in itertools.chain(folder.glob("*/*"), folder.glob("*/*/*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
            found.add(path.parent)
        if len(found) > 1:
            return True
    return False


def downloads() -> Path:
    """Where fetched data sets are kept: MM_DOWNLOADS, or the repository's downloads/."""
    return Path(os.environ.get("MM_DOWNLOADS") or repository() / "downloads").resolve()


def data_slug(source: str) -> str:
    """The source as a folder name: "catalogue", the folder's own name, or the id, in plain letters."""
    name = source
    if Path(place := source.removeprefix("hub:")).is_absolute():
        name = ("hub " if place != source else "") + Path(place).name
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "folder"
    return slug if len(slug) <= 60 else f"{slug[:50]}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def fingerprint(profile: Profile, source: str) -> str:
    """16 hex digits for everything outside the notebooks that decides results.

    That is the profile's sizes, the base model (a folder by its files, so that it may move) and the
    data (a folder by its metadata and the names and sizes of its other files, a table by itself; what is
    fetched by its name).
    """
    sizes = {key: value for key, value in asdict(profile).items() if key not in ("minutes", "base_model")}
    digest = hashlib.sha256(repr(sorted(sizes.items())).encode())
    base = Path(profile.base_model)
    digest.update(_folder_digest(base, whole=True) if base.is_dir() else profile.base_model.encode())
    place, options = with_options(source)
    if (path := Path(place)).is_absolute():
        digest.update(_folder_digest(path) if path.is_dir() else _table_digest(path))
        digest.update(repr(sorted(options.items())).encode() if options else b"")
    else:
        digest.update(source.encode())
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


def _table_digest(table: Path) -> bytes:
    """A table by its bytes; of Parquet, which may be large, by its size and end, where its statistics are."""
    with open(table, "rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - (1 << 20)) if table.suffix == ".parquet" else 0)
        return hashlib.sha256(f"{size}".encode() + handle.read()).digest()


def _found(value: str) -> Path | None:
    path = Path(value).expanduser()
    found = (base / path for base in (Path.cwd(), repository()) if (base / path).exists())
    return next((place.resolve() for place in found), None)


def _base_model(value: str) -> str:
    if (folder := _found(value)) is not None and folder.is_dir():
        return str(folder)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", value):
        return value
    raise ProfileError(
        f"MM_BASE_MODEL {value!r} is neither a folder nor a Hub id such as openai/clip-vit-base-patch32"
    )
