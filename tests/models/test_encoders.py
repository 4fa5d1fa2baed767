"""Loading encoders, the traps that loading closes, the image cache, and training through both."""

from __future__ import annotations

import copy
import errno
import json
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import mine_hard_negatives
from standins import pictures, tiny_clip, tiny_siglip

from mmhelpers import data, evaluation
from mmhelpers.data import image_cache
from mmhelpers.models import encoders
from mmhelpers.models.reranker import build_reranker

SHORT, LONG = "a red mug", "a red mug with yellow stripes and a leaf on it, left of a teal armchair"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    wide, square = pictures(folder / "wide", 4, (150, 110)), pictures(folder / "square", 4)
    return [str(path) for path in (*wide, *square)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_text_embedding_does_not_depend_on_the_batch(kind: str, request: pytest.FixtureRequest) -> None:
    model = encoders.load(request.getfixturevalue(kind), device="cpu")
    alone, among = model.encode(SHORT), model.encode([SHORT, LONG])[0]
    assert cosine(alone, among) == pytest.approx(1, abs=1e-5)
    assert model.similarity_fn_name == "cosine" and model.dtype == torch.float32


def test_the_siglip_trap_is_real_and_the_cure_is_saved(siglip: Path, tmp_path: Path) -> None:
    plain = SentenceTransformer(str(siglip), device="cpu")
    assert cosine(plain.encode(SHORT), plain.encode([SHORT, LONG])[0]) < 0.99
    cured = encoders.load(siglip, device="cpu")
    cured.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(again.encode([SHORT, LONG]), cured.encode([SHORT, LONG]), atol=1e-6)
    assert cosine(again.encode(SHORT), again.encode([SHORT, LONG])[0]) == pytest.approx(1, abs=1e-5)


def test_half_precision_files_load_as_float32_without_noise(
    clip: Path, paths: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clip, tmp_path, dirs_exist_ok=True)
    weights = {name: value.half() for name, value in load_file(clip / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((clip / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    # The older layout of the Hub's own repositories.
    processor = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = encoders.load(tmp_path, device="cpu")
        embeddings = model.encode(paths)
    assert model.dtype == torch.float32 and embeddings.shape == (8, 16)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert type(model.processor.image_processor).__name__.endswith("Pil")


def test_truncated_texts_are_counted(clip: Path, siglip: Path) -> None:
    for folder, limit in ((clip, 77), (siglip, 64)):
        model = encoders.load(folder, device="cpu")
        assert model.max_seq_length == limit
        assert encoders.truncated_texts(model, [SHORT, "zz " * 100, LONG, "q" * 200]) == 2


def test_a_tokenizer_without_a_limit_gets_the_models(clip: Path, tmp_path: Path) -> None:
    shutil.copytree(clip, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("model_max_length")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert encoders.load(tmp_path, device="cpu").encode("zz " * 100).shape == (16,)


def test_what_cannot_be_loaded_says_why(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(name: str) -> Path:
        shutil.copytree(clip, tmp_path / name)
        return tmp_path / name

    pickled = folder("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(encoders.EncoderError, match="without .*safetensors"):
        encoders.load(pickled)
    cut = folder("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(encoders.EncoderError, match="cut: cannot be loaded"):
        encoders.load(cut)
    foreign = folder("foreign")
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(
        json.dumps(config | {"model_type": "foreign", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    (foreign / "evil.py").write_text("raise SystemExit('code from the folder ran')")
    with pytest.raises(encoders.EncoderError, match="never run"):
        encoders.load(foreign)
    text_only = folder("text_only")
    model = SentenceTransformer(str(clip), device="cpu")
    model[0].modality_config.pop("image")
    model.save_pretrained(str(text_only))
    with pytest.raises(encoders.EncoderError, match="not a dual encoder"):
        encoders.load(text_only)


def test_hub_ids_are_asked_for_once_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(result: object):
        def model_info(repository: str, revision: str | None, timeout: float) -> object:
            asked.append((repository, revision))
            if isinstance(result, Exception):
                raise result
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in result])

        monkeypatch.setattr(encoders, "model_info", model_info)

    monkeypatch.setattr(encoders, "try_to_load_from_cache", lambda *args, **kwargs: None)
    response = SimpleNamespace(headers={}, status_code=404, request=None)
    answer(RepositoryNotFoundError("404", response=response))
    with pytest.raises(encoders.EncoderError, match="neither a folder nor a model.*no such model"):
        encoders.load("nobody/nothing")
    answer(["config.json", "pytorch_model.bin"])
    with pytest.raises(encoders.EncoderError, match="some/clip@refs/pr"):
        encoders.load("some/clip@main")
    answer(ConnectionError("no route"))
    with pytest.raises(encoders.EncoderError, match="cannot be reached .ConnectionError"):
        encoders.load("some/clip")
    assert asked == [("nobody/nothing", None), ("some/clip", "main"), ("some/clip", None)]
    with pytest.raises(encoders.EncoderError, match="neither a folder"):
        monkeypatch.undo()
        encoders.load("./no such/folder")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_cached_embeddings_equal_uncached(
    kind: str, on_disk: bool, paths: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = encoders.load(request.getfixturevalue(kind), device="cpu")
    expected = model.encode(paths)
    cache = encoders.attach_image_cache(model, [*paths, *paths], tmp_path if on_disk else None)
    assert len(cache) == len(paths) and Path(paths[0]) in cache and SHORT not in cache
    np.testing.assert_allclose(model.encode(paths), expected, atol=1e-5)
    assert cache.pixels(paths[:3]).shape == (3, 3, 96, 96)
    assert model.encode(SHORT).shape == expected[0].shape


def test_cache_answers_and_the_rest_is_read_or_refused(clip: Path, paths: list[str], tmp_path: Path) -> None:
    model = encoders.load(clip, device="cpu")
    gone, *later = [str(path) for path in pictures(tmp_path, 3)]
    with pytest.raises(FileNotFoundError, match="not_there.png"):
        model.encode([str(tmp_path / "not_there.png")])
    encoders.attach_image_cache(model, [*paths, gone])
    expected = model.encode([gone, *later])
    Path(gone).unlink()
    np.testing.assert_allclose(model.encode([gone]), expected[:1], atol=1e-5)
    np.testing.assert_allclose(model.encode([paths[0], *later])[1:], expected[1:], atol=1e-5)
    for missing in ("missing.png", "some/missing.JPG", str(tmp_path / "with space.webp")):
        with pytest.raises(FileNotFoundError, match="no such picture file"):
            model.encode([missing])
    assert model.encode(["the logo in the file logo.png", SHORT]).shape == (2, 16)
    with pytest.raises(FileNotFoundError, match="1 of 9 pictures are missing.*picture_000"):
        encoders.attach_image_cache(model, [*paths, gone])
    (tmp_path / "cut.png").write_bytes(Path(paths[0]).read_bytes()[:100])
    with pytest.raises(OSError, match="cut.png: cannot be read as a picture"):
        encoders.attach_image_cache(model, [*paths, tmp_path / "cut.png"])


def test_rotated_grey_and_transparent_pictures_are_read_as_the_library_reads_them(
    clip: Path, tmp_path: Path
) -> None:
    grey = Pillow.linear_gradient("L").resize((130, 90))
    exif = Pillow.Exif()
    exif[0x0112] = 6  # lies on its side
    grey.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    grey.save(tmp_path / "grey.png")
    grey.convert("RGBA").save(tmp_path / "alpha.png")
    files = sorted(str(path) for path in tmp_path.iterdir())
    model = encoders.load(clip, device="cpu")
    expected = model.encode(files)
    encoders.attach_image_cache(model, files)
    np.testing.assert_allclose(model.encode(files), expected, atol=1e-5)


def test_file_of_the_cache_is_reused_only_while_it_is_true(
    clip: Path, siglip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, folder = pictures(tmp_path / "p", 4), tmp_path / "cache"
    model = encoders.load(clip, device="cpu")
    made = []
    resized = image_cache.resized
    monkeypatch.setattr(image_cache, "resized", lambda model, name: made.append(name) or resized(model, name))

    def attach() -> int:
        """How many pictures were preprocessed, the first one for its shape and for a check aside."""
        made.clear()
        encoders.attach_image_cache(model, files, folder)
        assert len(list(folder.iterdir())) == 1
        return len(made) - 2

    assert [attach(), attach()] == [4, 0]
    kept = next(folder.iterdir())
    kept.write_bytes(kept.read_bytes()[:-1])
    assert [attach(), attach()] == [4, 0]
    files[2].write_bytes(files[1].read_bytes())
    assert [attach(), attach()] == [4, 0]
    files.append(Path(shutil.copy(files[0], tmp_path / "p" / "another.png")))
    assert [attach(), attach()] == [5, 0]
    files.pop()
    assert [attach(), attach()] == [4, 0]
    kept = next(folder.iterdir())
    content = bytearray(kept.read_bytes())
    content[:5] = b"other"  # as another version of Pillow would have resized
    kept.write_bytes(content)
    assert [attach(), attach()] == [4, 0]
    model.processor.image_processor.resample = 0  # other preprocessing, a file of the same size
    assert [attach(), attach()] == [4, 0]
    model = encoders.load(siglip, device="cpu")
    assert [attach(), attach()] == [4, 0]


def test_a_full_disk_leaves_nothing_behind(
    clip: Path, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized = image_cache.resized

    def full(model: SentenceTransformer, name: str) -> np.ndarray:
        if name == paths[5]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return resized(model, name)

    monkeypatch.setattr(image_cache, "resized", full)
    with pytest.raises(OSError, match="No space left") as caught:
        encoders.attach_image_cache(encoders.load(clip, device="cpu"), paths, tmp_path)
    assert "was not made" in caught.value.__notes__[0] and not list(tmp_path.iterdir())


def test_a_cache_serves_another_model_of_the_same_processor_only(
    clip: Path, siglip: Path, paths: list[str]
) -> None:
    first, second = encoders.load(clip, device="cpu"), encoders.load(clip, device="cpu")
    cache = encoders.attach_image_cache(first, paths)
    assert encoders.attach_image_cache(second, cache) is cache
    np.testing.assert_allclose(first.encode(paths), second.encode(paths), atol=1e-6)
    with pytest.raises(encoders.EncoderError, match="another image processor"):
        encoders.attach_image_cache(encoders.load(siglip, device="cpu"), cache)


def test_a_processor_that_does_more_is_asked_each_time(
    clip: Path, paths: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = encoders.load(clip, device="cpu")
    model[0].processing_kwargs["image"] = {"image_mean": [0.1, 0.1, 0.1]}
    expected = model.encode(paths)
    cache = encoders.attach_image_cache(model, paths, tmp_path)
    assert len(cache) == 0 and not list(tmp_path.iterdir())
    assert capsys.readouterr().out.startswith("No image cache: CLIPImageProcessorPil does more than resize")
    assert encoders.attach_image_cache(encoders.load(clip, device="cpu"), cache) is cache
    np.testing.assert_allclose(model.encode(paths), expected, atol=1e-6)


def test_copies_keep_the_cache_and_saved_models_are_plain(
    clip: Path, paths: list[str], tmp_path: Path
) -> None:
    model = encoders.load(clip, device="cpu")
    model.save_pretrained(str(tmp_path / "before"))
    cache = encoders.attach_image_cache(model, paths)
    model.save_pretrained(str(tmp_path / "after"))
    names = [
        sorted(str(p.relative_to(tmp_path / f)) for p in (tmp_path / f).rglob("*"))
        for f in ("before", "after")
    ]
    assert names[0] == names[1]
    for name in ("modules.json", "sentence_bert_config.json", "config.json", "processor_config.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
        assert "mmhelpers" not in (tmp_path / "after" / name).read_text()
    plain = SentenceTransformer(str(tmp_path / "after"), device="cpu")
    twin, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert twin[0].image_cache is cache
    for other in (plain, twin, thawed, encoders.load(tmp_path / "after", device="cpu")):
        np.testing.assert_allclose(other.encode(paths), model.encode(paths), atol=1e-5)
        assert repr(other) == repr(model)


@pytest.mark.parametrize("columns", ["pairs", "triplets"])
@pytest.mark.parametrize("sampler", [BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED])
def test_training_on_paths_through_the_cache(
    columns: str, sampler: BatchSamplers, clip: Path, paths: list[str], tmp_path: Path
) -> None:
    model = encoders.load(clip, device="cpu")
    texts = [f"{colour} {kind}" for colour in ("red", "blue") for kind in ("mug", "lamp", "hat", "kite")]
    rows = {"text": [*texts, "a second caption"], "image": [*paths, paths[0]]}
    if columns == "triplets":
        rows["negative"] = [*paths[1:], paths[0], paths[3]]
    dataset, before = Dataset.from_dict(rows), model.encode(texts)
    evaluator = InformationRetrievalEvaluator(
        dict(enumerate(texts)), dict(enumerate(paths)), {i: {i} for i in range(8)}, show_progress_bar=False
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        batch_sampler=sampler,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_cosine_ndcg@10",
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    loss = MultipleNegativesRankingLoss(
        model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    cache = encoders.attach_image_cache(model, paths)
    reads = []
    cache.pixels = lambda wanted, inner=cache.pixels: reads.append(len(wanted)) or inner(wanted)
    trainer = SentenceTransformerTrainer(
        model, args=arguments, train_dataset=dataset, loss=loss, evaluator=evaluator
    )
    trainer.train()
    assert len(reads) >= 2 * (2 if columns == "triplets" else 1) + 2, "the collator did not ask the cache"
    assert model[0].image_cache is cache
    assert not np.allclose(model.encode(texts), before)
    assert trainer.state.best_metric is not None


def test_no_picture_is_decoded_twice_in_a_run(
    clip: Path, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, search, mining and reranking, in one notebook and in the next, read the cache alone."""
    opened, really = [], Pillow.open
    monkeypatch.setattr(Pillow, "open", lambda name, *rest: opened.append(name) or really(name, *rest))
    model = encoders.load(clip, device="cpu")
    encoders.attach_image_cache(model, paths, tmp_path / "cache")
    assert set(opened) == set(paths) and len(opened) <= len(paths) + 3, "the first is tried before the others"
    texts = [f"a mug in colour {number}" for number in range(len(paths))]
    rows = Dataset.from_dict({"text": texts, "image": paths})
    truth = data.Retrieval(
        dict(enumerate(texts)), dict(enumerate(paths)), {n: {n: 1} for n in range(len(paths))}, {}
    )

    def decoded() -> int:
        found = len(opened)
        opened.clear()
        return found

    decoded()
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model, arguments, rows, loss=MultipleNegativesRankingLoss(model)).train()
    assert decoded() == 0, "training, and what it writes into the model card"
    run = evaluation.search(model, truth, k=4)
    assert decoded() == 0, "search"
    mine_hard_negatives(rows, model, corpus=paths, num_negatives=1, verbose=False)
    assert decoded() == 0, "mining"
    reranker = build_reranker(model)
    evaluation.rerank(reranker, run, truth, k=4)
    assert decoded() == 0, "reranking"
    following = encoders.load(clip, device="cpu")
    encoders.attach_image_cache(following, paths, tmp_path / "cache")
    assert decoded() <= 3, "the next notebook tries one picture, and takes the file"
    following.encode(paths)
    assert decoded() == 0


def test_image_columns_and_cached_paths_train_the_same(clip: Path, paths: list[str], tmp_path: Path) -> None:
    results = []
    for cached in (False, True):
        model = encoders.load(clip, device="cpu")
        dataset = Dataset.from_dict({"text": [f"number {i}" for i in range(8)], "image": paths})
        if cached:
            encoders.attach_image_cache(model, paths)
        else:
            dataset = dataset.cast_column("image", Image())
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / str(cached)),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            seed=1,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        loss = MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model, args=arguments, train_dataset=dataset, loss=loss).train()
        results.append(model.encode(paths))
    np.testing.assert_allclose(*results, atol=1e-4)


def test_texts_of_like_length_go_through_the_tower_together(clip: Path) -> None:
    model = encoders.load(clip, device="cpu")
    texts = [f"{'a ' * (n % 13)}{SHORT} {n}" for n in range(70)]
    features = model.preprocess(texts)
    widths: list[int] = []
    hook = model.transformers_model.text_model.embeddings.register_forward_hook(
        lambda module, args, out: widths.append(out.shape[1])
    )

    def gradients(run: Callable[[dict], dict]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        vectors = run(dict(features))["sentence_embedding"]
        (vectors * torch.arange(70).unsqueeze(1)).sum().backward()
        return vectors.detach(), [w.grad.clone() for w in model.parameters() if w.grad is not None]

    vectors, grads = gradients(model)
    assert len(widths) == 3 and widths[0] < widths[1] < widths[2] == features["input_ids"].shape[1]
    whole, whole_grads = gradients(lambda inputs: type(model[0]).forward(model[0], inputs))
    hook.remove()
    torch.testing.assert_close(vectors, whole, atol=1e-5, rtol=1e-5)
    assert len(grads) == len(whole_grads) > 10
    for one, other in zip(grads, whole_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
@pytest.mark.parametrize("started_by", ["encoders.load", "load_reranker"])
def test_freed_memory_is_kept(started_by: str, clip: Path, tmp_path: Path) -> None:
    """Of 40 blocks of 48 MB, one after the other, all but the first cost no new pages."""
    build_reranker(encoders.load(clip, device="cpu")).save_pretrained(str(tmp_path / "reranker"))
    code = f"""
import resource, sys, torch
from mmhelpers.models import encoders
from mmhelpers.models.reranker import load_reranker
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.zeros(12_000_000).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
{started_by}({str(clip if "encoders" in started_by else tmp_path / "reranker")!r}, device="cpu")
faults()
print(given_back, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 5
