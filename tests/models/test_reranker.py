"""The fusion reranker: starts as the retriever, learns what two vectors cannot hold, reloads exactly."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image, ImageDraw
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

from mmhelpers.models import encoders
from mmhelpers.models.reranker import FusionReranker, StateCache, build_reranker, load_reranker
from mmhelpers.shop.spec import COLOURS
from tests.standins import hub_clip, hub_siglip, hub_siglip2, pictures, tiny_clip, tiny_siglip

TEXTS = ["a red mug", "a striped blue lamp above a mug with a star"]
SIGLIP_TEXT = {"padding": "max_length", "max_length": 64, "truncation": True}


@pytest.fixture(scope="module", params=["clip", "siglip"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "clip":
        return SentenceTransformer(str(tiny_clip(folder, patch=24)), device="cpu")
    model = SentenceTransformer(str(tiny_siglip(folder, patch=24)), device="cpu")
    model[0].processing_kwargs = {"text": SIGLIP_TEXT}
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_clip(tmp_path_factory.mktemp("clip"), patch=24)), device="cpu")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [str(path) for path in pictures(tmp_path / "pictures", 8)]


def small(encoder: SentenceTransformer, **settings: float) -> CrossEncoder:
    return build_reranker(encoder, **{"slots": 2, "width": 16, **settings})


def disturb(model: CrossEncoder) -> None:
    """Give the correction something to say, as training would."""
    with torch.no_grad():
        for parameter in model[0].fusion.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def count_tower_passes(model: CrossEncoder) -> list[str]:
    passes: list[str] = []
    clip_model = model[0].towers.model
    clip_model.text_model.register_forward_hook(lambda *_: passes.append("text"))
    clip_model.vision_model.register_forward_hook(lambda *_: passes.append("image"))
    return passes


def fit(
    model: CrossEncoder, loss: torch.nn.Module, dataset: Dataset, folder: Path, **settings: float
) -> None:
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder), save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        **{"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2, **settings},
    )  # fmt: skip
    CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss).train()


def test_untrained_it_ranks_exactly_as_the_retriever(encoder: SentenceTransformer, paths: list[str]) -> None:
    model = small(encoder)
    left = encoder.encode(TEXTS, normalize_embeddings=True)
    right = encoder.encode(paths, normalize_embeddings=True)
    scores = model.predict([(text, path) for text in TEXTS for path in paths]).reshape(len(TEXTS), -1)
    np.testing.assert_allclose(scores, 20 * left @ right.T, atol=1e-5)
    for text, row in zip(TEXTS, left @ right.T, strict=True):
        assert [hit["corpus_id"] for hit in model.rank(text, paths)] == np.argsort(-row).tolist()


def test_the_lean_way_gives_the_same_scores(encoder: SentenceTransformer, paths: list[str]) -> None:
    model = small(encoder)
    disturb(model)
    expected = model.predict([(TEXTS[1], path) for path in paths])
    np.testing.assert_allclose(model[0].scores(TEXTS[1], paths), expected, atol=1e-6)
    np.testing.assert_allclose(model[0].scores(TEXTS[1], paths, batch_size=3), expected, atol=1e-5)
    assert model[0].scores(TEXTS[0], []).shape == (0,)
    assert isinstance(float(model.predict((TEXTS[0], paths[0]))), float)


def test_padding_and_company_do_not_change_a_score(encoder: SentenceTransformer, paths: list[str]) -> None:
    model = small(encoder)
    disturb(model)
    together = model.predict([(text, path) for path in paths for text in TEXTS])
    alone = [model.predict((text, path)) for path in paths for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("make", [hub_clip, hub_siglip, hub_siglip2])
def test_a_text_counts_with_its_own_tokens_whatever_the_padding(
    make: Callable[[Path], Path], paths: list[str], tmp_path: Path
) -> None:
    """SigLIP gives no mask; the first one pads with its end token, the second one with another."""
    encoder = encoders.load(make(tmp_path / "encoder"), device="cpu")
    model, texts = small(encoder), [*TEXTS, "zz " * 100]
    limit, tokenizer = encoder.max_seq_length, encoder.tokenizer
    padded = encoder.preprocess(texts)
    assert padded["input_ids"].shape == (3, limit)
    assert ("attention_mask" in padded) == (make is hub_clip)
    assert (tokenizer.pad_token == tokenizer.eos_token) == (make is not hub_siglip2)
    own = [tokenizer(text, truncation=True, max_length=limit, padding=False)["input_ids"] for text in texts]
    assert all(
        ids.count(tokenizer.eos_token_id) == 1 == ids[::-1].index(tokenizer.eos_token_id) + 1 for ids in own
    )
    features = model[0].preprocess([(text, paths[0]) for text in texts])
    assert features["text_mask"].sum(1).tolist() == [len(ids) for ids in own]
    assert len(own[0]) < len(own[1]) < len(own[2]) == limit


def test_saved_and_reloaded_scores_are_equal(
    encoder: SentenceTransformer, paths: list[str], tmp_path: Path
) -> None:
    model = small(encoder)
    disturb(model)
    model.save_pretrained(str(tmp_path / "reranker"))
    pairs = [(text, path) for text in TEXTS for path in paths]
    again = load_reranker(tmp_path / "reranker", device="cpu")
    np.testing.assert_allclose(again.predict(pairs), model.predict(pairs), atol=1e-6)
    files = [path for path in (tmp_path / "reranker").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


def test_pickles_and_half_a_folder_are_refused(
    clip: SentenceTransformer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = small(clip)
    with pytest.raises(ValueError, match="safetensors only"):
        model.save_pretrained(str(tmp_path / "pickled"), safe_serialization=False)
    folder = tmp_path / "reranker"
    model.save_pretrained(str(folder))
    (folder / "mmhelpers").mkdir()
    (folder / "mmhelpers" / "reranker.py").write_text("print('executed')")
    load_reranker(folder)
    assert "executed" not in capsys.readouterr().out
    weights = folder / "towers" / "model.safetensors"
    torch.save(model[0].towers.model.state_dict(), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="towers/model.safetensors is missing"):
        load_reranker(folder)
    with pytest.raises(FileNotFoundError, match="no reranker was saved"):
        load_reranker(tmp_path / "nothing")


def test_towers_run_once_for_a_text_and_a_picture(clip: SentenceTransformer, paths: list[str]) -> None:
    model = small(clip)
    passes = count_tower_passes(model)
    asked = [TEXTS[0], "a far longer text that is read in a batch of its own, and the first again", TEXTS[0]]
    embedded = model[0].precompute(asked, paths, batch_size=3, show_progress_bar=False)
    assert passes == ["text", "image", "image", "image"]
    for vectors, items in zip(embedded, (asked, paths), strict=True):  # in the order given, repeats as well
        expected = clip.encode(items, convert_to_tensor=True, normalize_embeddings=True).cpu()
        torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    model.predict([(TEXTS[0], path) for path in paths])
    model[0].scores(TEXTS[0], paths)
    assert len(passes) == 4
    model[0].clear_cache()
    model[0].scores(TEXTS[0], paths)
    assert len(passes) == 6 and len(model[0].images) == len(paths)


def test_a_picture_drawn_anew_is_not_the_old_one(clip: SentenceTransformer, paths: list[str]) -> None:
    model = small(clip)
    before = model[0].scores(TEXTS[0], paths)
    passes = count_tower_passes(model)
    Image.new("RGB", (96, 96), "red").save(paths[0])
    redrawn = model[0].scores(TEXTS[0], paths)
    assert abs(redrawn[0] - before[0]) > 1e-4 and passes == ["image"]
    np.testing.assert_allclose(redrawn[1:], before[1:], atol=1e-6)


def test_a_small_cache_forgets_the_oldest_and_stays_right(
    clip: SentenceTransformer, paths: list[str]
) -> None:
    model = small(clip)
    expected = model[0].scores(TEXTS[0], paths)
    one = model[0].images.bytes // len(paths)
    model[0].images = StateCache(limit=3 * one)
    np.testing.assert_allclose(model[0].scores(TEXTS[0], paths), expected, atol=1e-6)
    assert len(model[0].images) == 3 and model[0].images.bytes == 3 * one


def test_the_encoder_is_left_untouched(clip: SentenceTransformer) -> None:
    chance = torch.get_rng_state()
    first, second, other = small(clip), small(clip), small(clip, seed=1)
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(parameter.requires_grad for parameter in clip.parameters())
    assert first[0].towers.model is not clip[0].auto_model
    weights = [model[0].fusion.key.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(ValueError, match="one Transformer module"):
        build_reranker(SentenceTransformer(modules=[clip[0], torch.nn.Identity()], device="cpu"))


def test_bad_pairs_are_named(clip: SentenceTransformer, paths: list[str], tmp_path: Path) -> None:
    model = small(clip)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        model.predict([(TEXTS[0], str(tmp_path / "missing.png"))])
    with pytest.raises(ValueError, match="expected pairs"):
        model.predict([(paths[0], TEXTS[0], paths[1])])
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="notes.txt"):
        model.predict([(TEXTS[0], str(tmp_path / "notes.txt"))])


def test_pictures_in_memory_count_as_their_files(clip: SentenceTransformer, paths: list[str]) -> None:
    model = small(clip)
    opened = [Image.open(path) for path in paths]
    passes = count_tower_passes(model)
    from_memory = model.predict([(TEXTS[0], image) for image in opened])
    model.predict([(TEXTS[0], Image.open(path)) for path in paths])
    assert passes == ["text", "image"]
    np.testing.assert_allclose(from_memory, model[0].scores(TEXTS[0], paths), atol=1e-6)


@pytest.mark.parametrize("form", ["paths", "images"])
def test_trains_pointwise(clip: SentenceTransformer, paths: list[str], tmp_path: Path, form: str) -> None:
    model = small(clip)
    towers = [parameter.clone() for parameter in model[0].towers.parameters()]
    before = model.predict([(TEXTS[0], path) for path in paths])  # states from here serve the training
    columns = {"query": TEXTS * 4, "image": paths, "label": [1.0, 0.0] * 4}
    dataset = Dataset.from_dict(columns)
    if form == "images":
        dataset = dataset.cast_column("image", ImageColumn())
    fit(model, losses.BinaryCrossEntropyLoss(model), dataset, tmp_path / "out")
    assert not np.allclose(model.predict([(TEXTS[0], path) for path in paths]), before)
    assert all(torch.equal(a, b) for a, b in zip(towers, model[0].towers.parameters(), strict=True))
    assert not model[0].towers.training
    model.save_pretrained(str(tmp_path / "trained"))
    assert "image" in (tmp_path / "trained" / "README.md").read_text()


@pytest.mark.parametrize("loss", [losses.ListNetLoss, losses.LambdaLoss])
def test_trains_listwise_with_an_evaluator_and_keeps_the_best(
    clip: SentenceTransformer, paths: list[str], tmp_path: Path, loss: type[torch.nn.Module]
) -> None:
    model = small(clip)
    rows = {"query": TEXTS * 2, "docs": [paths[:4], paths[4:7]] * 2, "labels": [[3, 1, 0, 0], [3, 0, 0]] * 2}
    samples = [{"query": TEXTS[0], "positive": paths[:1], "documents": paths[1:4] + paths[:1]}]
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=2, per_device_train_batch_size=2,
        learning_rate=1e-2,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, logging_strategy="no",
        metric_for_best_model="eval_toy_ndcg@10", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(rows),
        loss=loss(model, mini_batch_size=-1), evaluator=CrossEncoderRerankingEvaluator(samples, name="toy"),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_metric == max(
        row["eval_toy_ndcg@10"] for row in trainer.state.log_history if "eval_toy_ndcg@10" in row
    )
    best = FusionReranker.load(trainer.state.best_model_checkpoint)
    np.testing.assert_allclose(best.scores(TEXTS[0], paths), model[0].scores(TEXTS[0], paths), atol=1e-5)


def squares(folder: Path, n: int) -> dict[tuple[str, str], list[str]]:
    """`n` pictures for every ordered pair of colours: one square left, one right, places and sizes vary."""
    folder.mkdir()
    rng, files = random.Random(0), {}
    for pair in itertools.permutations(["red", "blue", "green", "white"], 2):
        files[pair] = [str(folder / f"{'_'.join(pair)}_{number}.png") for number in range(n)]
        for file in files[pair]:
            picture = Image.new("RGB", (96, 96), COLOURS["grey"])
            for x, colour in zip((4, 52), pair, strict=True):
                corner = x + rng.randint(0, 8), rng.randint(4, 40)
                box = [*corner, corner[0] + 34, corner[1] + rng.randint(30, 50)]
                ImageDraw.Draw(picture).rectangle(box, fill=COLOURS[colour])
            picture.save(file)
    return files


def test_it_learns_which_colour_stands_where(clip: SentenceTransformer, tmp_path: Path) -> None:
    """Frozen towers of random weights: their patches show colours, their two vectors cannot bind them."""
    files = squares(tmp_path / "squares", 21)
    model = build_reranker(clip, width=48)
    rows = [
        {"query": f"{a} left {b}", "docs": [files[a, b][i], files[b, a][i]], "labels": [5.0, 0.0]}
        for i in range(20)
        for a, b in files
    ]

    def right_way_round() -> float:
        scores = {
            pair: model[0].scores(f"{pair[0]} left {pair[1]}", [files[pair][20], files[pair[::-1]][20]])
            for pair in files
        }
        return float(np.mean([first > swapped for first, swapped in scores.values()]))

    before = right_way_round()
    loss = losses.ListNetLoss(model, mini_batch_size=-1)
    fit(model, loss, Dataset.from_list(rows), tmp_path / "out", num_train_epochs=30, learning_rate=3e-3,
        per_device_train_batch_size=16, warmup_steps=0.1)  # fmt: skip
    assert before <= 0.6 and right_way_round() >= 0.9, (before, right_way_round())
