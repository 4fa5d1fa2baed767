"""Encoders by name: folders laid out as the repositories on the Hub are, loaded, trained and loaded again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from standins import CLIP_SIZES, SIGLIP, SIGLIP2, VLM, hub_clip, hub_siglip, hub_siglip2, pictures, tiny_vlm
from transformers import AutoTokenizer
from transformers.processing_utils import MODALITY_TO_AUTOPROCESSOR_MAPPING
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor

from mmhelpers.models import encoders
from mmhelpers.models.reranker import build_reranker

SHORT, LONG = "a Red Mug", "a red mug with yellow stripes and a leaf on it, left of a teal armchair"
TOWERS = [*CLIP_SIZES, SIGLIP, SIGLIP2]
LIMITS = {SIGLIP: 64, SIGLIP2: 64, VLM: 262144}


class NoVideos(BaseVideoProcessor):
    """In place of the one part that needs torchvision, and that no picture goes through."""

    def __init__(self) -> None:
        pass

    def to_dict(self) -> dict[str, str]:
        return {"video_processor_type": "Qwen3VLVideoProcessor"}


@pytest.fixture(autouse=True)
def videos(monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_torchvision_available():
        auto = MODALITY_TO_AUTOPROCESSOR_MAPPING["video_processor"]
        monkeypatch.setattr(auto, "from_pretrained", lambda *args, **kwargs: NoVideos())
        processor = transformers.Qwen3VLProcessor
        monkeypatch.setattr(processor, "check_argument_for_proper_class", lambda *args: None)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model, made at its first use."""
    root, made = tmp_path_factory.mktemp("layouts"), {}

    def folder(name: str) -> Path:
        if name not in made:
            make = {SIGLIP: hub_siglip, SIGLIP2: hub_siglip2, VLM: tiny_vlm}.get(name)
            target = root / name.replace("/", "--")
            made[name] = make(target) if make else hub_clip(target, name)
        return made[name]

    return folder


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in pictures(tmp_path_factory.mktemp("pictures"), 6, (90, 70))]


@pytest.mark.parametrize("name", [*TOWERS, VLM])
def test_an_embedding_depends_on_the_text_alone(name: str, layout: Callable[[str], Path]) -> None:
    model = encoders.load(layout(name), device="cpu")
    together = model.encode([SHORT, LONG], normalize_embeddings=True)
    assert model.encode(SHORT, normalize_embeddings=True) @ together[0] == pytest.approx(1, abs=1e-5)
    assert abs(together[0] @ together[1]) < 0.9999, "the two texts differ"
    if name != VLM:
        lower = model.encode(SHORT.lower(), normalize_embeddings=True)
        assert lower @ together[0] == pytest.approx(1, abs=1e-5), "capitals count for none of them"
    assert model.max_seq_length == LIMITS.get(name, 77)


@pytest.mark.parametrize("name", [*TOWERS, VLM])
def test_it_trains_and_what_is_saved_needs_nothing_of_ours(
    name: str, layout: Callable[[str], Path], paths: list[str], tmp_path: Path
) -> None:
    model = encoders.load(layout(name), device="cpu")
    texts = [f"a {colour} mug" for colour in ("red", "blue", "teal", "grey", "pink", "gold")]
    cache = encoders.attach_image_cache(model, paths)
    assert len(cache) == (0 if name == VLM else len(paths))
    before = model.encode(texts)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "scratch"), max_steps=2, per_device_train_batch_size=3, learning_rate=1e-3,
        use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    dataset = Dataset.from_dict({"text": texts, "image": paths})
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, args=arguments, train_dataset=dataset, loss=loss).train()
    assert not np.allclose(model.encode(texts), before)
    model.save_pretrained(str(tmp_path / "saved"))
    for again in (
        encoders.load(tmp_path / "saved", device="cpu"),
        SentenceTransformer(str(tmp_path / "saved"), device="cpu"),
    ):
        for items in ([SHORT, LONG, *texts], paths):
            np.testing.assert_allclose(again.encode(items), model.encode(items), atol=1e-5)


@pytest.mark.parametrize("name", [*TOWERS, VLM])
def test_texts_over_the_limit_are_counted(name: str, layout: Callable[[str], Path]) -> None:
    model = encoders.load(layout(name), device="cpu")
    model.max_seq_length = limit = min(model.max_seq_length, 77)
    fits = next(n for n in range(limit, 0, -1) if encoders.truncated_texts(model, [" ".join("a" * n)]) == 0)
    one_more = [" ".join("a" * n) for n in (fits, fits + 1)]
    lengths = [len(model.preprocess([text])["input_ids"][0]) for text in one_more]
    assert encoders.truncated_texts(model, one_more) == 1 and lengths[1] == limit
    ends = [text[:-1] + "b" for text in one_more]  # does another end make another embedding?
    pairs = [model.encode(list(pair)) for pair in zip(one_more, ends, strict=True)]
    same = [np.allclose(*pair, atol=1e-6) for pair in pairs]
    assert same == [False, True], "the last word of the text that is one too long is not read"


def test_siglip_2_is_loaded_with_capitals_by_the_library(layout: Callable[[str], Path]) -> None:
    """The trap is real: the setting in the repository is ignored."""
    settings = json.loads((layout(SIGLIP2) / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] and settings["tokenizer_class"] == "GemmaTokenizer"
    plain = AutoTokenizer.from_pretrained(layout(SIGLIP2))
    assert plain("Red Mug")["input_ids"] != plain("red mug")["input_ids"]
    cured = encoders.load(layout(SIGLIP2), device="cpu").tokenizer
    assert cured("Red Mug")["input_ids"] == plain("red mug")["input_ids"]


def test_pictures_cost_a_vision_language_model_no_more_than_its_budget(
    layout: Callable[[str], Path], tmp_path: Path
) -> None:
    model = encoders.load(layout(VLM), device="cpu")
    large = str(pictures(tmp_path, 1, (1500, 1100))[0])
    height, width = (16 * model[0].preprocess([large])["image_grid_thw"][0, 1:]).tolist()
    assert 0.8 * encoders.PIXELS < height * width <= encoders.PIXELS
    assert type(model.processor.image_processor).__name__.endswith("Pil"), "on every machine"
    assert model.encode([large]).shape == (1, 32)


def test_one_tower_is_no_ground_for_the_reranker(layout: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="one Transformer module.*Pooling"):
        build_reranker(encoders.load(layout(VLM), device="cpu"))


def test_a_chat_model_is_no_embedder(layout: Callable[[str], Path], tmp_path: Path) -> None:
    for path in layout(VLM).iterdir():
        if path.is_file() and path.name not in ("modules.json", "sentence_bert_config.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(encoders.EncoderError, match="not a dual encoder.*nor was it made an embedder"):
        encoders.load(tmp_path, device="cpu")


@pytest.mark.parametrize(("name", "package"), [(SIGLIP, "sentencepiece"), (VLM, "torchvision")])
def test_a_package_that_is_missing_is_named(name: str, package: str, layout: Callable[[str], Path]) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from mmhelpers.models import encoders\n"
        "try: encoders.load(sys.argv[1], device='cpu')\n"
        "except encoders.EncoderError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(layout(name))]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    said = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert package in said.stdout.lower() and "cannot be loaded" in said.stdout, said
