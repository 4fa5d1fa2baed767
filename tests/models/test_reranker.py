"""The fusion reranker: trusts the retriever as far as told, learns what two vectors cannot hold, reloads exactly."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image, ImageDraw
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from standins import hub_clip, hub_siglip, hub_siglip2, pictures, tiny_clip, tiny_siglip

from mmhelpers.models import encoders
from mmhelpers.models.reranker import build_reranker, load_reranker
from mmhelpers.shop.spec import COLOURS

TEXTS = ["a red mug", "a striped blue lamp above a mug with a star"]


@pytest.fixture(scope="module", params=[tiny_clip, tiny_siglip])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return encoders.load(request.param(tmp_path_factory.mktemp("encoder"), patch=24), device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return encoders.load(tiny_clip(tmp_path_factory.mktemp("clip"), patch=24), device="cpu")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [str(path) for path in pictures(tmp_path / "pictures", 8)]


def small(encoder: SentenceTransformer, seed: int = 0) -> CrossEncoder:
    return build_reranker(encoder, heads=2, width=16, seed=seed)


def scores(model: CrossEncoder, text: str, pictures: list) -> np.ndarray:
    return model.predict([(text, picture) for picture in pictures])


def tower_passes(model: torch.nn.Module) -> list[str]:
    """Grows by a word with each pass of a tower."""
    passes: list[str] = []
    for name, module in model.named_modules():
        if name.endswith((".text_model", ".vision_model")):
            what = "text" if name.endswith("text_model") else "image"
            module.register_forward_hook(lambda *_, what=what: passes.append(what))
    return passes


def fit(
    model: CrossEncoder, loss: torch.nn.Module, rows: Dataset, folder: Path, evaluator: Callable | None = None, **more
) -> None:
    settings = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no", **more}
    settings |= {"logging_strategy": "no", "disable_tqdm": True, "use_cpu": True, "report_to": "none"}
    arguments = CrossEncoderTrainingArguments(str(folder), **settings)
    CrossEncoderTrainer(model, arguments, rows, loss=loss, evaluator=evaluator).train()


def test_the_retrievers_cosine_counts_as_much_as_told(encoder: SentenceTransformer, paths: list[str]) -> None:
    model, cosines = small(encoder), encoder.similarity(encoder.encode(TEXTS), encoder.encode(paths)).numpy()
    own = [scores(model, text, paths) for text in TEXTS]
    model[0].fusion.trust.fill_(1e3)
    np.testing.assert_allclose([scores(model, text, paths) for text in TEXTS], own + 1e3 * cosines, atol=1e-2)
    model[0].fusion.trust.fill_(1e6)
    assert [[hit["corpus_id"] for hit in model.rank(text, paths)] for text in TEXTS] == np.argsort(-cosines).tolist()


def test_a_score_depends_on_the_pair_alone_and_is_saved(
    encoder: SentenceTransformer, paths: list[str], tmp_path: Path
) -> None:
    model, chance = small(encoder), torch.Generator().manual_seed(1)
    pairs = [(text, path) for text in TEXTS for path in paths]
    fresh = model.predict(pairs)
    with torch.no_grad():  # as training would, give the correction something to say
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=chance))
    alone = np.array([model.predict(pair) for pair in pairs])
    assert np.abs(alone - fresh).max() > 0.01
    np.testing.assert_allclose(model.predict(pairs), alone, atol=1e-5)
    model.save_pretrained(str(tmp_path / "reranker"))
    again = load_reranker(tmp_path / "reranker", device="cpu")
    np.testing.assert_allclose(again.predict(pairs), alone, atol=1e-5)


@pytest.mark.parametrize("make", [hub_clip, hub_siglip, hub_siglip2])
def test_a_text_counts_with_its_own_tokens_whatever_the_padding(
    make: Callable[[Path], Path], paths: list[str], tmp_path: Path
) -> None:
    """SigLIP gives no mask; the first one pads with its end token, the second one with another."""
    encoder = encoders.load(make(tmp_path / "encoder"), device="cpu")
    texts, limit, tokenizer = [*TEXTS, "zz " * 100], encoder.max_seq_length, encoder.tokenizer
    assert ("attention_mask" in encoder.preprocess(texts)) == (make is hub_clip)
    assert (tokenizer.pad_token == tokenizer.eos_token) == (make is not hub_siglip2)
    own = [tokenizer(text, truncation=True, max_length=limit, padding=False)["input_ids"] for text in texts]
    features = small(encoder)[0].preprocess([(text, paths[0]) for text in texts])
    assert features["text_mask"].sum(1).tolist() == [len(ids) for ids in own]
    assert len(own[0]) < len(own[1]) < len(own[2]) == limit


def test_only_safetensors_are_written_and_read_and_no_code(
    clip: SentenceTransformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = small(clip), tmp_path / "reranker"
    model.save_pretrained(str(folder))
    assert {path.suffix for path in folder.rglob("*.*")} == {".json", ".safetensors", ".md"}
    (folder / "mmhelpers").mkdir()
    (folder / "mmhelpers" / "reranker.py").write_text("print('executed')")
    load_reranker(folder)
    assert "executed" not in capsys.readouterr().out
    for weights in (folder / "towers" / "model.safetensors", folder / "fusion.safetensors"):
        torch.save(clip.transformers_model.state_dict(), weights.with_name("pytorch_model.bin"))
        weights.unlink()
        with pytest.raises(OSError, match=f"{weights.stem}"):
            load_reranker(folder)


def test_towers_run_once_for_a_text_and_a_picture(clip: SentenceTransformer, paths: list[str]) -> None:
    model = small(clip)
    passes = tower_passes(model)
    asked = [TEXTS[0], "a far longer text that is read along with it, and the first again", TEXTS[0]]
    embedded = model[0].precompute(asked, paths)
    assert passes == ["text", "image"]
    for vectors, items in zip(embedded, (asked, paths), strict=True):  # in the order given, repeats as well
        expected = clip.encode(items, convert_to_tensor=True, normalize_embeddings=True)
        torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    kept = scores(model, TEXTS[0], paths)
    assert len(passes) == 2
    model[0].clear_cache()
    np.testing.assert_allclose(scores(model, TEXTS[0], paths), kept, atol=1e-5)
    assert passes[2:] == ["text", "image"]
    for _ in range(2):
        np.testing.assert_allclose(scores(model, TEXTS[0], [Image.open(path) for path in paths]), kept, atol=1e-5)
    assert passes[4:] == ["image"], "pictures in memory are known by their pixels"
    Image.new("RGB", (96, 96), "red").save(paths[0])
    redrawn = scores(model, TEXTS[0], paths)
    assert passes[5:] == ["image"] and abs(redrawn[0] - kept[0]) > 1e-4
    np.testing.assert_allclose(redrawn[1:], kept[1:], atol=1e-5)
    Path(paths[0]).unlink()
    with pytest.raises(FileNotFoundError, match="picture_000.png"):
        scores(model, TEXTS[0], paths)


def test_the_encoder_is_left_untouched(clip: SentenceTransformer) -> None:
    chance = torch.get_rng_state()
    models = [small(clip), small(clip), small(clip, seed=1)]
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(parameter.requires_grad for parameter in clip.parameters())
    first, second, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert not {id(p) for p in clip.parameters()} & {id(p) for p in models[0].parameters()}
    with pytest.raises(ValueError, match="one Transformer module"):
        build_reranker(SentenceTransformer(modules=[clip[0], torch.nn.Identity()], device="cpu"))


def test_it_learns_which_colour_stands_where_and_the_best_is_kept(clip: SentenceTransformer, tmp_path: Path) -> None:
    """Frozen towers of random weights: their patches show colours, their two vectors cannot bind them."""
    rng, files = random.Random(0), {}
    for pair in itertools.permutations(["red", "blue", "green", "white"], 2):
        files[pair] = [str(tmp_path / f"{'_'.join(pair)}_{number}.png") for number in range(21)]
        for file in files[pair]:
            picture = Image.new("RGB", (96, 96), COLOURS["grey"])
            for left, colour in zip((4, 52), pair, strict=True):
                x, y = left + rng.randint(0, 8), rng.randint(4, 40)
                box = [x, y, x + 34, y + rng.randint(30, 50)]
                ImageDraw.Draw(picture).rectangle(box, fill=COLOURS[colour])
            picture.save(file)
    rows = [
        {"query": f"{a} left {b}", "docs": [files[a, b][i], files[b, a][i]], "labels": [5.0, 0.0]}
        for i in range(21)
        for a, b in files
    ]
    train, held_out = rows[: 20 * len(files)], rows[20 * len(files) :]
    samples = [{"query": r["query"], "positive": r["docs"][:1], "documents": r["docs"]} for r in held_out]
    model, evaluator = build_reranker(clip, width=48), CrossEncoderRerankingEvaluator(samples, name="toy")

    def right_way_round() -> float:
        return float(np.mean([np.argmax(scores(model, row["query"], row["docs"])) == 0 for row in held_out]))

    before = right_way_round()
    fit(
        model, losses.ListNetLoss(model, mini_batch_size=-1), Dataset.from_list(train), tmp_path / "out", evaluator,
        num_train_epochs=30, learning_rate=3e-3, per_device_train_batch_size=16, warmup_steps=0.1,
        eval_strategy="steps", save_strategy="steps", eval_steps=150, save_steps=150, load_best_model_at_end=True,
        metric_for_best_model="eval_toy_ndcg@10",
    )  # fmt: skip
    assert before <= 0.6 and right_way_round() >= 0.9, (before, right_way_round())
    kept = [load_reranker(folder, device="cpu") for folder in (tmp_path / "out").glob("checkpoint-*")]
    found, *saved = (one.predict([(row["query"], row["docs"][0]) for row in held_out]) for one in (model, *kept))
    assert sum(np.allclose(one, found, atol=1e-5) for one in saved) == 1 < len(saved)
