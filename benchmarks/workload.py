"""What is measured: a shop of drawn products, photos of them, and models, none of them downloaded."""

from __future__ import annotations

import json
import os
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, CLIPConfig, CLIPModel

from mmhelpers import data
from mmhelpers.course.profiles import CLIP_MINI, PROFILES
from mmhelpers.models import encoders
from mmhelpers.shop import stock as shop
from mmhelpers.shop.draw import draw
from mmhelpers.shop.spec import Scene
from mmhelpers.shop.words import generic_caption

PHOTO = 500  # longest side of a photo in the usual captioning data sets (Flickr30k, COCO)


@dataclass(frozen=True)
class Settings:
    """Sizes of a run. `dtype` is the arithmetic of all variants: float32 on a CPU, else the profile's."""

    device: str
    model: str
    dtype: str
    batch: int
    warmup: int  # steps that are not counted
    steps: int  # steps that are
    rounds: int
    pictures: int  # of the shop's training split
    photos: int
    quick: bool

    @property
    def needed(self) -> int:
        """Pairs that one training run sees; the trainers fetch two batches ahead."""
        return (self.warmup + self.steps + 2) * self.batch


def settings(device: str, model: str, quick: bool) -> Settings:
    """The default sizes: about 14 minutes on two cores; `quick` shows only that everything works."""
    profile = PROFILES["gpu" if device == "cuda" else "laptop"]
    sizes = {"batch": profile.batch_size, "warmup": 1, "steps": 4, "rounds": 4}
    sizes |= {"pictures": 1600, "photos": 256}
    if device == "cuda":
        sizes |= {"warmup": 5, "steps": 15, "pictures": 6000, "photos": 1024}
    if quick:
        sizes = {"batch": 8, "warmup": 1, "steps": 1, "rounds": 2, "pictures": 64, "photos": 8}
    dtype = profile.dtype if device == "cuda" else "float32"
    return Settings(device, model, dtype, quick=quick, **sizes)


@dataclass(frozen=True)
class Workload:
    """A model (folder), and pairs of a text and a picture; no text and no path stands there twice."""

    name: str
    model: Path
    texts: list[str]
    pictures: list[str]
    photos: list[str] | None = None  # the same pictures as the photos they were made from

    def rows(self, pictures: list[str] | None = None) -> Dataset:
        """Pairs with paths: what notebook 02 trains on."""
        return Dataset.from_dict({"text": self.texts, "image": pictures or self.pictures})

    def image_rows(self, pictures: list[str] | None = None) -> Dataset:
        """Pairs with an Image column: what the library's own examples train on."""
        return self.rows(pictures).cast(Features({"text": Value("string"), "image": Image()}))

    def load(self, device: str) -> SentenceTransformer:
        return encoders.load(self.model, device=device)


def draw_shop(chosen: Settings, folder: Path) -> data.Collection:
    """The shop of the course, smaller: at the model's resolution, PNG."""
    size = 224 if chosen.model == "clip-b32" else 96
    n = chosen.pictures
    sizes = {"n_train": n, "n_validation": 30 if chosen.quick else 300, "n_test": 20}
    asked = {"n_queries_train": n // 2, "n_queries_validation": 10 if chosen.quick else 200, "n_queries": 10}
    profile = replace(PROFILES["laptop"], image_size=size, **sizes, **asked)
    return data.from_catalogue(profile, folder)


def shop_workload(chosen: Settings, collection: data.Collection, folder: Path) -> Workload:
    """Captions with their pictures, each once."""
    train = collection.truth["train"]
    pairs = {train.queries[f"caption-{image}"]: path for image, path in train.corpus.items()}
    model = base_model(chosen, folder)
    return Workload(f"{chosen.model}, shop", model, list(pairs), list(pairs.values()))


def photo_workload(chosen: Settings, folder: Path) -> Workload:
    """Photos (JPEG, 500 pixels) and smaller copies of 224, for a tower that looks at 224 pixels.

    Drawing is slow and says nothing here: each photo stands under several names, as often as is needed.
    """
    luck = random.Random("photos")
    scenes = [shop.random_scene(luck) for _ in range(chosen.photos)]
    jobs = [(scene.to_json(), number, str(folder)) for number, scene in enumerate(scenes)]
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(_photograph, jobs, chunksize=4))
    texts, small, large = [], [], []
    for number in range(chosen.needed):
        which, copy = number % chosen.photos, number // chosen.photos
        texts.append(f"{generic_caption(scenes[which], luck)}, number {number}")
        for kind, paths in (("small", small), ("large", large)):
            original = folder / f"{kind}-{which}-0.jpg"
            path = folder / f"{kind}-{which}-{copy}.jpg"
            if copy:
                shutil.copyfile(original, path)
            paths.append(str(path))
    return Workload("photos, 224 px tower", photo_model(chosen, folder), texts, small, large)


def _photograph(job: tuple[str, int, str]) -> None:
    scene, number, folder = job
    picture = draw(Scene.from_json(scene), PHOTO, number)
    picture.save(Path(folder) / f"large-{number}-0.jpg", quality=90)
    small = picture.resize((224, 224), Pillow.Resampling.LANCZOS)
    small.save(Path(folder) / f"small-{number}-0.jpg", quality=90)


def base_model(chosen: Settings, folder: Path) -> Path:
    """clip-mini as committed, or CLIP ViT-B/32 with random weights."""
    if chosen.model == "clip-mini":
        return CLIP_MINI
    config = CLIPConfig()  # its defaults are ViT-B/32
    config.text_config.bos_token_id, config.text_config.eos_token_id = 0, 1  # those of clip-mini's tokenizer
    return _save(config, folder / "clip-b32")


def photo_model(chosen: Settings, folder: Path) -> Path:
    """A tower as small as clip-mini's for pictures of 224 pixels in 49 patches; with CLIP B/32, that."""
    if chosen.model == "clip-b32":
        return folder.parent / "shop" / "clip-b32"
    config = AutoConfig.from_pretrained(CLIP_MINI)
    config.vision_config.image_size, config.vision_config.patch_size = 224, 32
    return _save(config, folder / "small-tower")


def _save(config: CLIPConfig, folder: Path) -> Path:
    """A model of random weights, with clip-mini's tokenizer; no file of it is ever fetched."""
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(CLIP_MINI / name, folder / name)
    about = json.loads((CLIP_MINI / "processor_config.json").read_text())
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    about["image_processor"] |= {"size": {"shortest_edge": side}, "crop_size": square}
    (folder / "processor_config.json").write_text(json.dumps(about))
    return folder
