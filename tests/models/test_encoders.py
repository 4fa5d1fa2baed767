"""Loading encoders, the image cache, copies of a model, and training through all of it."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as Pillow
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import mine_hard_negatives
from standins import fit, pictures, tiny_clip, tiny_siglip
from transformers import CLIPModel

from mmhelpers import data, evaluation
from mmhelpers.models import encoders
from mmhelpers.models.reranker import build_reranker

SHORT, LONG = "a red mug", "a red mug with yellow stripes and a leaf on it, left of a teal armchair"
TEXTS = [f"{colour} {kind}" for colour in ("red", "blue") for kind in ("mug", "lamp", "hat", "kite")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Eight pictures: wide, square, grey, transparent, and one that lies on its side."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [*pictures(folder / "wide", 3, (150, 110)), *pictures(folder / "square", 2)]
    paths += [folder / "turned.jpg", folder / "grey.png", folder / "alpha.png"]
    grey, exif = Pillow.linear_gradient("L").resize((130, 90)), Pillow.Exif()
    exif[0x0112] = 6
    grey.convert("RGB").save(paths[5], exif=exif)
    grey.save(paths[6])
    grey.convert("RGBA").save(paths[7])
    return [str(path) for path in paths]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every picture file that was opened."""
    names, really = [], Pillow.open
    monkeypatch.setattr(Pillow, "open", lambda name, *rest: names.append(str(name)) or really(name, *rest))
    return names


def test_half_precision_files_load_as_float32_without_noise(
    clip: Path, paths: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clip, tmp_path, dirs_exist_ok=True)
    CLIPModel.from_pretrained(clip).half().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("model_max_length")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = encoders.load(tmp_path, device="cpu")
        assert model.encode(paths).shape == (8, 16)
        assert model.encode("zz " * 100).shape == (16,), "a tokenizer without a limit gets the model's"
    assert model.dtype == torch.float32 and model.similarity_fn_name == "cosine"
    assert type(model.processor.image_processor).__name__.endswith("Pil")
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_loaded_says_why(clip: Path, tmp_path: Path) -> None:
    pickled, cut, foreign, text_only = (tmp_path / name for name in ("pickled", "cut", "foreign", "texts"))
    for folder in (pickled, cut, foreign):
        shutil.copytree(clip, folder)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (cut / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes()[:5000])
    config = json.loads((clip / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "evil.Config"}}
    (foreign / "config.json").write_text(json.dumps(config))
    (foreign / "evil.py").write_text("raise SystemExit('code from the folder ran')")
    model = SentenceTransformer(str(clip), device="cpu")
    model[0].modality_config.pop("image")
    model.save_pretrained(str(text_only))
    for folder, why in (
        (pickled, "without .*safetensors"),
        (cut, "cut: cannot be loaded"),
        (foreign, "never run"),
        (text_only, "not a dual encoder"),
        ("./no such/folder", "no such/folder: cannot be loaded"),
        ("nobody/clip@main", "neither a folder with a model nor one that the Hub gives"),
    ):
        with pytest.raises(encoders.EncoderError, match=why):
            encoders.load(folder)


@pytest.mark.parametrize("make", [tiny_clip, tiny_siglip])
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_cache_holds_what_the_processor_makes(
    make: Callable, on_disk: bool, clip: Path, paths: list[str], tmp_path: Path, opened: list[str]
) -> None:
    model, following = (encoders.load(make(tmp_path / "model"), device="cpu") for _ in range(2))
    expected, vectors = model[0].preprocess(paths)["pixel_values"], model.encode(paths)
    cache = encoders.attach_image_cache(model, [*paths, *paths], tmp_path / "cache" if on_disk else None)
    assert len(cache) == len(paths) and Path(paths[0]) in cache and SHORT not in cache
    torch.testing.assert_close(cache.pixels(paths), expected, rtol=0, atol=1e-5)
    opened.clear()
    assert encoders.attach_image_cache(following, cache) is cache
    for one in (model, following):
        np.testing.assert_allclose(one.encode(paths), vectors, atol=1e-5)
    assert not opened and model.encode(SHORT).shape == vectors[0].shape
    if make is tiny_siglip:
        with pytest.raises(encoders.EncoderError, match="another image processor"):
            encoders.attach_image_cache(encoders.load(clip, device="cpu"), cache)


def test_pictures_beside_the_cache_are_read_and_missing_ones_refused(
    clip: Path, paths: list[str], tmp_path: Path
) -> None:
    model = encoders.load(clip, device="cpu")
    gone, *later = [str(path) for path in pictures(tmp_path, 3)]
    encoders.attach_image_cache(model, [*paths, gone])
    expected = model.encode([gone, *later])
    Path(gone).unlink()
    np.testing.assert_allclose(model.encode([gone]), expected[:1], atol=1e-5)
    np.testing.assert_allclose(model.encode([paths[0], *later])[1:], expected[1:], atol=1e-5)
    for missing in ("missing.png", "some/missing.JPG", str(tmp_path / "with space.webp")):
        with pytest.raises(FileNotFoundError, match=f"{missing}: no such picture"):
            model.encode([missing])
    assert model.encode(["the logo in the file logo.png", SHORT]).shape == (2, 16)
    with pytest.raises(FileNotFoundError, match="1 of 9 pictures are missing.*picture_000"):
        encoders.attach_image_cache(model, [*paths, gone])
    (tmp_path / "cut.png").write_bytes(Path(paths[0]).read_bytes()[:100])
    with pytest.raises(OSError, match="cut.png: cannot be read as a picture"):
        encoders.attach_image_cache(model, [*paths, tmp_path / "cut.png"], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir()), "nothing is left of a cache that failed"


def test_the_file_of_the_cache_is_reused_only_while_it_is_true(clip: Path, tmp_path: Path, opened: list[str]) -> None:
    files, folder, model = pictures(tmp_path / "p", 4), tmp_path / "cache", encoders.load(clip, device="cpu")
    for file in files:
        file.write_bytes(file.read_bytes().ljust(50_000))  # of one size, so that it does not tell a change

    def made_anew() -> bool:
        expected = model[0].processor.image_processor([Pillow.open(f) for f in files], return_tensors="pt")
        opened.clear()
        cache = encoders.attach_image_cache(model, files, folder)
        assert len(list(folder.iterdir())) == 1, "what no longer holds is removed"
        torch.testing.assert_close(cache.pixels(files), expected["pixel_values"], rtol=0, atol=1e-5)
        assert set(opened) in ({str(files[0])}, set(map(str, files))), "the first picture is for a check"
        return len(set(opened)) > 1

    def rewrite(start: bytes, end: int | None) -> None:
        kept = next(folder.iterdir())
        kept.write_bytes(start + kept.read_bytes()[len(start) : end])

    for change in (
        lambda: None,
        lambda: rewrite(b"", -1),  # cut short
        lambda: rewrite(b"other", None),  # as another version of Pillow makes it
        lambda: files[2].write_bytes(files[1].read_bytes()),
        lambda: files.append(Path(shutil.copy(files[0], tmp_path / "p" / "another.png"))),
        lambda: setattr(model.processor.image_processor, "resample", 0),
    ):
        change()
        assert [made_anew(), made_anew()] == [True, False]


def test_saved_models_are_plain(clip: Path, paths: list[str], tmp_path: Path) -> None:
    model = encoders.load(clip, device="cpu")
    encoders.attach_image_cache(model, paths)
    for one, folder in ((model, "ours"), (SentenceTransformer(str(clip), device="cpu"), "theirs")):
        one.save_pretrained(str(tmp_path / folder), create_model_card=False)
    ours, theirs = ({f.relative_to(tmp_path / name): f for f in (tmp_path / name).rglob("*") if f.is_file()}
                    for name in ("ours", "theirs"))  # fmt: skip
    assert ours.keys() == theirs.keys()
    assert ours[Path("modules.json")].read_bytes() == theirs[Path("modules.json")].read_bytes()
    assert not any(b"mmhelpers" in file.read_bytes() for file in ours.values())
    plain = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    for inputs in (paths, [SHORT, LONG]):
        np.testing.assert_allclose(plain.encode(inputs), model.encode(inputs), atol=1e-5)
    assert repr(plain) == repr(model)


def replica_of(module: torch.nn.Module) -> torch.nn.Module:
    """As torch.nn.DataParallel makes one for each further GPU: weights are plain tensors, moved there."""
    replica = module._replicate_for_data_parallel()
    replica._modules = {name: replica_of(child) for name, child in module._modules.items()}
    for name, weights in module._parameters.items():
        setattr(replica, name, None if weights is None else weights.detach().clone())
    return replica


@pytest.mark.parametrize("way", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), replica_of])
def test_a_copy_answers_as_itself(way: Callable, clip: Path, paths: list[str], opened: list[str]) -> None:
    model, changed = encoders.load(clip, device="cpu"), encoders.load(clip, device="cpu")
    encoders.attach_image_cache(model, paths)
    other = way(model[0])
    with torch.no_grad():
        for part in (*other.modules(), *changed.modules()):
            if isinstance(part, torch.nn.LayerNorm):
                part.weight.mul_(torch.linspace(0.5, 2, len(part.weight)))
    for inputs in ([f"{text} {n}" for n in range(5) for text in TEXTS], paths):  # 40 texts go in parts
        before, expected = model.encode(inputs), changed.encode(inputs)
        opened.clear()
        found = other(other.preprocess(inputs))["sentence_embedding"].detach()
        assert not opened, "a copy reads the cache as well"
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(expected - before).max() > 0.01
        np.testing.assert_allclose(model.encode(inputs), before, atol=1e-6)


def test_no_picture_is_decoded_twice_in_a_course(
    clip: Path, paths: list[str], tmp_path: Path, opened: list[str]
) -> None:
    """Training, search, mining and reranking, in one notebook and in the next, read the cache alone."""
    model = encoders.load(clip, device="cpu")
    encoders.attach_image_cache(model, paths, tmp_path / "cache")
    assert set(opened) == set(paths) and len(opened) <= len(paths) + 3, "the first is tried before the others"
    columns = {"text": TEXTS, "image": paths}
    truth = data.Retrieval(dict(enumerate(TEXTS)), dict(enumerate(paths)), {}, {}, {})
    before = model.encode(TEXTS)
    opened.clear()
    for sampler in (BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED):
        fit(model, columns | {"negative": paths[::-1]}, tmp_path / "out", batch_sampler=sampler)
    assert not np.allclose(model.encode(TEXTS), before) and not opened, "training"
    run = evaluation.search(model, truth, k=4)
    assert not opened, "search"
    mine_hard_negatives(Dataset.from_dict(columns), model, corpus=paths, num_negatives=1, verbose=False)
    assert not opened, "mining"
    evaluation.rerank(build_reranker(model), run, truth, k=4)
    assert not opened, "reranking"
    following = encoders.load(clip, device="cpu")
    encoders.attach_image_cache(following, paths, tmp_path / "cache")
    following.encode(paths)
    assert set(opened) == {paths[0]}, "the next notebook tries one picture, and takes the file"


def test_texts_of_like_length_go_through_the_tower_together(clip: Path) -> None:
    model, plain = encoders.load(clip, device="cpu"), SentenceTransformer(str(clip), device="cpu")
    features = model.preprocess([f"{'a ' * (n % 13)}{SHORT} {n}" for n in range(70)])
    widths, embeddings = [], model.transformers_model.text_model.embeddings
    embeddings.register_forward_hook(lambda module, args, out: widths.append(out.shape[1]))
    vectors = [one(dict(features))["sentence_embedding"] for one in (model, plain)]
    assert len(widths) == 3 and widths[0] < widths[1] < widths[2] == features["input_ids"].shape[1]
    torch.testing.assert_close(*vectors, atol=1e-5, rtol=1e-5)
    for some in vectors:
        (some * torch.arange(70).unsqueeze(1)).sum().backward()
    gradients = [[w.grad for w in one.parameters() if w.grad is not None] for one in (model, plain)]
    assert len(gradients[0]) > 10
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
