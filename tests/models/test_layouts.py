"""Encoders by name: folders laid out as the repositories on the Hub are, loaded, trained and loaded again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from standins import CLIP, SIGLIP, SIGLIP2, VLM, fit, hub_clip, hub_siglip, hub_siglip2, pictures, tiny_vlm
from transformers import AutoTokenizer, Qwen3VLProcessor
from transformers.processing_utils import MODALITY_TO_AUTOPROCESSOR_MAPPING
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor

from mmhelpers.models import encoders
from mmhelpers.models.reranker import build_reranker

SHORT, LONG = "a Red Mug", "a red mug with yellow stripes and a leaf on it, left of a teal armchair"
MADE = {CLIP: hub_clip, SIGLIP: hub_siglip, SIGLIP2: hub_siglip2, VLM: tiny_vlm}
LIMITS = {CLIP: 77, SIGLIP: 64, SIGLIP2: 64, VLM: 262144}


class NoVideos(BaseVideoProcessor):
    """In place of the one part that needs torchvision, and that no picture goes through."""

    def to_dict(self) -> dict[str, str]:
        return {"video_processor_type": "Qwen3VLVideoProcessor"}


@pytest.fixture(autouse=True)
def videos(monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_torchvision_available():
        auto = MODALITY_TO_AUTOPROCESSOR_MAPPING["video_processor"]
        monkeypatch.setattr(auto, "from_pretrained", lambda *args, **kwargs: NoVideos.__new__(NoVideos))
        monkeypatch.setattr(Qwen3VLProcessor, "check_argument_for_proper_class", lambda *args: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    return {name: make(root / name.replace("/", "--")) for name, make in MADE.items()}


@pytest.mark.parametrize("name", MADE)
def test_an_embedding_depends_on_the_text_alone(name: str, folders: dict[str, Path]) -> None:
    model = encoders.load(folders[name], device="cpu")
    assert model.max_seq_length == LIMITS[name]
    alone, lower, together = map(model.encode, (SHORT, SHORT.lower(), [SHORT, LONG]))
    np.testing.assert_allclose(together[0], alone, atol=1e-5)
    assert not np.allclose(*together, atol=1e-3), "the two texts differ"
    assert np.allclose(alone, lower, atol=1e-5) == (name != VLM), "capitals count for no dual encoder"


@pytest.mark.parametrize("name", [SIGLIP, SIGLIP2])
def test_the_traps_of_siglip_are_real(name: str, folders: dict[str, Path]) -> None:
    plain = SentenceTransformer(str(folders[name]), device="cpu")
    assert not np.allclose(plain.encode(SHORT), plain.encode([SHORT, LONG])[0], atol=1e-3), "padding"
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    same = tokenizer("Red Mug")["input_ids"] == tokenizer("red mug")["input_ids"]
    assert same == (name == SIGLIP), "SigLIP 2's own setting, do_lower_case, is ignored by the library"


@pytest.mark.parametrize("name", MADE)
def test_it_trains_and_what_is_saved_needs_nothing_of_ours(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model = encoders.load(folders[name], device="cpu")
    texts = [f"a {colour} mug" for colour in ("red", "blue", "teal", "grey", "pink", "gold")]
    paths = [str(path) for path in pictures(tmp_path / "pictures", 6, (90, 70))]
    assert len(encoders.attach_image_cache(model, paths)) == (0 if name == VLM else len(paths))
    before = model.encode(texts)
    fit(model, {"text": texts, "image": paths}, tmp_path)
    assert not np.allclose(model.encode(texts), before)
    model.save_pretrained(str(tmp_path / "saved"))
    for load in (encoders.load, SentenceTransformer):
        again = load(str(tmp_path / "saved"), device="cpu")
        for items in ([SHORT, LONG, *texts], paths):
            np.testing.assert_allclose(again.encode(items), model.encode(items), atol=1e-5)
        np.testing.assert_allclose(again.encode([SHORT, LONG])[0], again.encode(SHORT), atol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_texts_over_the_limit_are_counted(name: str, folders: dict[str, Path]) -> None:
    model = encoders.load(folders[name], device="cpu")
    model.max_seq_length = limit = min(model.max_seq_length, 77)
    fits = next(n for n in range(limit, 0, -1) if encoders.truncated_texts(model, [" ".join("a" * n)]) == 0)
    one_more = [" ".join("a" * n) for n in (fits, fits + 1)]
    assert encoders.truncated_texts(model, one_more) == 1
    ends = [text[:-1] + "b" for text in one_more]  # does another end make another embedding?
    same = [np.allclose(*model.encode(list(pair)), atol=1e-6) for pair in zip(one_more, ends, strict=True)]
    assert same == [False, True], "the last word of the text that is one too long is not read"


def test_a_vision_language_model_is_kept_within_bounds(folders: dict[str, Path], tmp_path: Path) -> None:
    model = encoders.load(folders[VLM], device="cpu")
    large = str(pictures(tmp_path, 1, (1500, 1100))[0])
    height, width = (16 * model[0].preprocess([large])["image_grid_thw"][0, 1:]).tolist()
    assert 0.8 * encoders.PIXELS < height * width <= encoders.PIXELS
    assert type(model.processor.image_processor).__name__.endswith("Pil"), "on every machine"
    assert model.encode([large]).shape == (1, 32)
    with pytest.raises(ValueError, match="one Transformer module.*Pooling"):
        build_reranker(model)
    nobody_made_it_an_embedder = shutil.ignore_patterns("modules.json", "sentence_bert_config.json", "1_*", "2_*")
    chat = shutil.copytree(folders[VLM], tmp_path / "chat", ignore=nobody_made_it_an_embedder)
    with pytest.raises(encoders.EncoderError, match="not a dual encoder.*nor was it made an embedder"):
        encoders.load(chat, device="cpu")
