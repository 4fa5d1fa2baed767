"""Small pictures with texts: a folder as people have it, and a repository as the Hub has it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
from PIL import Image


def picture(number: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Soft blobs, so that pictures of different numbers look different."""
    noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def a_folder(root: Path, n: int = 3, **columns: str) -> tuple[Path, list[dict]]:
    """A good folder of `n` pictures, and its rows; `columns` are added to each."""
    (root / "images").mkdir(parents=True)
    rows = [{"file_name": f"images/{i}.png", "text": f"picture number {i}", **columns} for i in range(n)]
    for i, row in enumerate(rows):
        picture(i).save(root / row["file_name"])
    write(root, rows)
    return root, rows


def write(root: Path, rows: list[dict]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (root / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def encoded(image: Image.Image, kind: str = "PNG") -> dict:
    """A picture as a cell of Parquet holds it."""
    image.save(out := io.BytesIO(), kind)
    return {"bytes": out.getvalue(), "path": None}


def pictures(n: int) -> list[dict]:
    return [encoded(picture(number)) for number in range(n)]


def a_table(columns: dict, **kinds: object) -> datasets.Dataset:
    image, text = datasets.Image(), datasets.Value("string")
    known = {name: image if isinstance(of[0], dict) else text for name, of in columns.items()}
    return datasets.Dataset.from_dict(columns, features=datasets.Features({**known, **kinds}))


def a_repository(root: Path, columns: dict, card: str = "license: cc-by-4.0", **kinds: object) -> Path:
    """A folder as the Hub has it: a card, and Parquet in shards that says which columns are pictures."""
    table = a_table(columns, **kinds)
    (root / "data").mkdir(parents=True, exist_ok=True)
    for number in range(2):
        table.shard(2, number).to_parquet(root / "data" / f"train-{number:05d}-of-00002.parquet")
    (root / "README.md").write_text(f"---\n{card}\n---\n# A set\n", encoding="utf-8")
    return root
