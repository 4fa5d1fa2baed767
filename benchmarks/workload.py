"""What is measured: the course's shop, smaller, and clip-mini. Nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from mmhelpers import data
from mmhelpers.course.profiles import CLIP_MINI, PROFILES
from mmhelpers.models import encoders

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    pictures: int  # drawn for all three tables, at least those of one training run
    batch: int  # pairs in a training batch
    warmup: int  # training steps that are not counted
    steps: int  # those that are
    rounds: int  # in which the ways to train take turns
    candidates: int  # pictures that are reranked for a query
    queries: int  # texts whose reranking is timed
    vectors: int  # among which is searched


FULL = Size(1600, batch=128, warmup=1, steps=4, rounds=4, candidates=100, queries=20, vectors=1_000_000)
QUICK = Size(64, batch=8, warmup=1, steps=1, rounds=2, candidates=10, queries=3, vectors=10_000)


@dataclass(frozen=True)
class Pairs:
    """Captions and the paths of their pictures; none of them stands there twice."""

    texts: list[str]
    pictures: list[str]

    def rows(self) -> Dataset:
        """Columns of texts and paths: what notebook 02 trains on."""
        return Dataset.from_dict({"text": self.texts, "image": self.pictures})


def draw_shop(size: Size, folder: Path) -> Pairs:
    """The training split of a small shop, drawn into `folder`; each caption once."""
    sizes = {"n_train": size.pictures, "n_validation": 20, "n_test": 20}
    asked = {"n_queries_train": 20, "n_queries_validation": 10, "n_queries": 10}
    profile = replace(PROFILES["laptop"], **sizes, **asked)
    train = data.from_shop(profile, folder).splits["train"]
    found = dict(zip(train["text"], data.paths(train), strict=True))
    return Pairs(list(found), list(found.values()))


def load() -> SentenceTransformer:
    """clip-mini as the notebooks load it, but with the plain recipe's attention: all is float32 here."""
    model = encoders.load(CLIP_MINI, device=DEVICE)
    model.transformers_model.set_attn_implementation("sdpa")
    return model
