"""The scripts of examples/ on a folder of coloured squares: the numbers rise, and what was saved loads."""

import csv
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sentence_transformers import CrossEncoder, SentenceTransformer
from standins import tiny_clip

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "purple", "cyan", "brown", "pink")
SQUARES = list(itertools.permutations(COLOURS, 2))
TEXTS = "a {} photo on {}", "{} with {}"  # of each picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square of one colour on a ground of another; each picture has two texts."""
    root = tmp_path_factory.mktemp("squares")
    with (root / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text"])
        for colour, ground in SQUARES:
            picture = Image.new("RGB", (96, 96), ground)
            ImageDraw.Draw(picture).rectangle((20, 20, 76, 76), colour)
            picture.save(root / f"{colour}-{ground}.png")
            table.writerows([f"{colour}-{ground}.png", text.format(colour, ground)] for text in TEXTS)
    return root


def run(script: str, folder: Path, *options: object) -> tuple[float, float]:
    """The numbers before and after that a script prints."""
    command = [sys.executable, str(EXAMPLES / script), str(folder), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(map(float, re.search(r"ndcg@10: ([\d.]+) before, ([\d.]+) after", done.stdout).groups()))


def first_right(scores: np.ndarray) -> float:
    """In what share of the texts the right picture is first; a picture has two texts."""
    assert np.isfinite(scores).all()
    return float(np.mean(scores.argmax(axis=1) == np.repeat(np.arange(len(SQUARES)), 2)))


def test_both_scripts_improve_what_they_measure_and_what_they_save_loads(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))  # for the scripts
    clip, tuned, output = tiny_clip(tmp_path / "clip", patch=24), tmp_path / "tuned", tmp_path / "reranker"
    options = ("--epochs", 6, "--batch-size", 16, "--learning-rate", 1e-3)
    before, after = run("finetune.py", folder, "--model", clip, "--output", tuned, *options)
    assert after > before + 0.2
    held_out = set(json.loads((tuned / "validation.json").read_text()))
    whole = [square for square in SQUARES if held_out.issuperset(text.format(*square) for text in TEXTS)]
    assert len(whole) == 9 == len(held_out) / 2  # no picture has a text on each side
    model = SentenceTransformer(str(tuned), device="cpu")
    queries = [text.format(*square) for square in SQUARES for text in TEXTS]
    pictures = [str(folder / f"{colour}-{ground}.png") for colour, ground in SQUARES]
    with torch.no_grad():  # blur what the vector of a picture says; its patches still say it
        model[0].model.visual_projection.weight[:12] = 0
    model.save_pretrained(str(tuned))
    options = ("--output", output, "--epochs", 14, "--batch-size", 64)
    before, after = run("rerank.py", folder, "--model", tuned, *options)
    assert after > before + 0.05
    reranker = CrossEncoder(str(output), trust_remote_code=True, device="cpu")
    scores = reranker.predict(list(itertools.product(queries, pictures)), batch_size=512)
    cosines = model.similarity(model.encode(queries), model.encode(pictures)).numpy()
    assert first_right(scores.reshape(cosines.shape)) > first_right(cosines) + 0.05


@pytest.mark.parametrize(("script", "lines"), [("finetune.py", 60), ("rerank.py", 130)])
def test_a_script_is_short_and_stands_alone(script: str, lines: int):
    source = (EXAMPLES / script).read_text(encoding="utf-8")
    assert len(source.splitlines()) < lines and "mmhelpers" not in source
