"""How large a run is, on what device, with which base model, on whose pictures.

Three profiles (smoke, laptop, gpu) and one data source, chosen from the machine and overridden by the
environment: MM_PROFILE, MM_DATA, MM_BASE_MODEL. Imports nothing of ours, and torch only for the device.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

PACKAGE = Path(__file__).resolve().parents[1]
CLIP_MINI = PACKAGE / "models" / "clip_mini"
SHOP = "shop"


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
    minutes: list[float]  # expected, for each notebook from 01 on: two CPU cores (gpu: one T4)

    @property
    def base_name(self) -> str:
        """The base model as it may be shown: the name of a folder, or the Hub id."""
        folder = Path(self.base_model)
        return folder.name if folder.is_absolute() else self.base_model

    @property
    def device(self) -> str:
        """The word for torch, "cuda", "mps" or "cpu": the same choice as the trainers of transformers."""
        import torch

        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def dtype(self) -> str:
        """The mixed precision as a word: "bfloat16", "float16" or "float32"."""
        import torch

        if self.device == "cpu":
            return "bfloat16" if bfloat16_cpu() else "float32"
        if self.device != "cuda":
            return "float32"
        # A T4 has compute capability 7.5 and only emulates bfloat16.
        return "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float16"

    @property
    def bf16(self) -> bool:
        return self.dtype == "bfloat16"

    @property
    def fp16(self) -> bool:
        return self.dtype == "float16"


def bfloat16_cpu() -> bool:
    """Whether the processor multiplies matrices in bfloat16 (Intel AMX): training takes half the time then."""
    import torch

    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


_TABLE = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text(encoding="utf-8"))
PROFILES = {
    name: Profile(name, **{**sizes, "base_model": sizes["base_model"] or str(CLIP_MINI)})
    for name, sizes in _TABLE.items()
}


def repository() -> Path:
    """The checkout, or else the working directory: where artifacts/, build/ and downloads/ go."""
    for folder in (PACKAGE.parent, Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return Path.cwd()


def notebooks() -> Path:
    """The folder of the notebooks: MM_NOTEBOOKS, those installed with the package, or the checkout's."""
    home = next(place for place in (PACKAGE / "notebooks", repository() / "notebooks", Path()) if place.is_dir())
    return Path(os.environ.get("MM_NOTEBOOKS") or home).resolve()


def downloads() -> Path:
    """Where fetched data sets are kept: MM_DOWNLOADS, or the repository's downloads/."""
    return Path(os.environ.get("MM_DOWNLOADS") or repository() / "downloads").resolve()


def active(name: str | None = None) -> Profile:
    """The profile of this run, with MM_BASE_MODEL (a folder or a Hub id) as its base model.

    Args: name: overrides MM_PROFILE; with neither, a machine with CUDA gets gpu, any other laptop.
    """
    default = "gpu" if PROFILES["gpu"].device == "cuda" else "laptop"
    if (name := name or os.environ.get("MM_PROFILE") or default) not in PROFILES:
        raise ProfileError(f"PROFILE {name!r} is unknown; choose one of {', '.join(PROFILES)}")
    base = os.environ.get("MM_BASE_MODEL") or PROFILES[name].base_model
    return replace(PROFILES[name], base_model=str(_found(base) or base))


def data_source(value: str | None = None) -> str:
    """Whose pictures: "shop", "hub:<id>", or the absolute path of a folder or a table, perhaps with ?options.

    Args: value: overrides MM_DATA; a relative path starts where the command was typed, or at the repository.
    """
    value = value or os.environ.get("MM_DATA") or SHOP
    place, mark, options = value.partition("?")
    if value == SHOP or place.startswith("hub:"):
        return value
    if (found := _found(place)) is None:
        what = f"DATA {value!r}: there is no such file or folder (looked from {Path.cwd()}); choose {SHOP!r}, "
        raise ProfileError(what + "a folder with pictures and their texts, a table, or hub:owner/name")
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
    """16 hex digits for sizes, base model and data: folders by names, sizes and times of their files."""
    parts = asdict(profile)
    del parts["minutes"]
    place, parts["options"] = with_options(source)
    parts["base_model"], parts["data"] = _described(profile.base_model), _described(place)
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:16]


def _described(place: str) -> str:
    path, lines = Path(place), []
    if not path.is_absolute():
        return place
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            stat = file.stat()
            lines.append(f"{file.relative_to(path).as_posix()} {stat.st_size} {stat.st_mtime_ns}")
    return "\n".join(lines)


def _found(value: str) -> Path | None:
    places = (base / Path(value).expanduser() for base in (Path.cwd(), repository()))
    return next((place.resolve() for place in places if place.exists()), None)
