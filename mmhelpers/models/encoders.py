"""Load text-image encoders with the known traps closed, and let them answer pictures from a cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import model_info, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import get_device_name, is_sentence_transformer_model
from transformers import PreTrainedConfig, Siglip2Tokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # older tops want torchvision
from transformers.utils import logging

from mmhelpers.course.profiles import bfloat16_cpu
from mmhelpers.data import image_cache
from mmhelpers.data.hub import refusal
from mmhelpers.data.image_cache import ImageCache

# What the library takes for a picture.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")
PIXELS = 512 * 512  # of a picture at most, for models that would take more: 256 tokens of Qwen3-VL
logging.disable_progress_bar()  # "Loading weights": a second long, and kept in the output of a notebook


class EncoderError(ValueError):
    """A model that cannot be loaded or used as a text-image encoder; the message says why and what to do."""


def load(
    name_or_path: str | Path, device: str | None = None, dtype: torch.dtype | str | None = None
) -> SentenceTransformer:
    """Load a CLIP- or SigLIP-style model, or one finetuned from it, for texts and pictures in one space.

    What differs from `SentenceTransformer(name_or_path)`: weights are float32 unless asked otherwise and come
    from safetensors only; no code from the model's folder runs; pictures go through Pillow on every machine;
    SigLIP's texts are padded to full length as in its training (otherwise an embedding depends on the rest of
    the batch), SigLIP 2's are lower-cased as well; a path that names no file is an error, not a text. A
    vision-language embedder (Qwen3-VL-Embedding) loads too, and sees PIXELS of a picture at most.

    Args:
        name_or_path: a folder, or a Hub id; "id@revision" pins a branch, a tag, a commit or "refs/pr/1".
        dtype: of the weights; None is float32. For half precision in training use the trainer's fp16 or bf16.

    Raises: EncoderError: no such folder or id, no network, no safetensors, own code, or not such a model.
    """
    name, pin = str(name_or_path), ""
    if not os.path.isdir(name):
        name, _, pin = name.partition("@")
    where = {"revision": pin or None, "local_files_only": _only_cached(name, pin or None)}
    try:
        config = PreTrainedConfig.get_config_dict(name, **where)[0]
        one_tower = "image_token_id" in config and is_sentence_transformer_model(name, **where)
        options = {"dtype": dtype or torch.float32, "use_safetensors": True}
        if not one_tower and bfloat16_cpu() and (device or get_device_name()) == "cpu":
            options["attn_implementation"] = "eager"  # going back through torch's fused one is slow in bfloat16
        model = SentenceTransformer(
            name, **where, device=device, trust_remote_code=False, similarity_fn_name="cosine", model_kwargs=options,
            processor_kwargs={} if one_tower else {"backend": "pil"},  # videos know no other
        )  # fmt: skip
    except Exception as error:
        raise EncoderError(f"{name_or_path}: cannot be loaded: {_why_not(error)}") from error
    _check_kind(model, config, one_tower, name)
    if one_tower:
        _limit_pixels(model[0], name, where)
    _close_text_traps(model[0], name, where)
    model[0].__class__ = _CachedTransformer
    return model


def truncated_texts(model: SentenceTransformer, texts: Sequence[str]) -> int:
    """How many of `texts` are longer than the model reads (77 tokens for CLIP): their end is ignored."""
    tokens = model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
    around = model.preprocess([""])["input_ids"].shape[1] if "message" in model.modalities else 0
    return sum(len(ids) + around > model.max_seq_length for ids in tokens)


def attach_image_cache(
    model: SentenceTransformer, paths: Iterable[str | Path] | ImageCache, folder: str | Path | None = None
) -> ImageCache:
    """Preprocess each picture once; from then on `model` answers these paths from the cache.

    That holds for path strings in a dataset column, `encode`, an evaluator and `mine_hard_negatives`; saving
    the model does not change. Attaching again replaces: give all paths at once. A processor that does more
    than resize, crop, rescale and normalise cannot be served: a sentence says so, and the cache stays empty.

    Args:
        paths: picture files (repeats are fine), or the cache of a model with the same image processor.
        folder: keeps the pixels as one file, made anew when it does not fit; None keeps them in memory.

    Raises: EncoderError: a cache of another image processor. OSError: files that are missing or unreadable.
    """
    processor = model.processor.image_processor
    settings = processor.to_dict()
    if isinstance(paths, ImageCache):
        cache = paths
        if cache.settings != settings:
            raise EncoderError("this cache was made for another image processor; give the paths instead")
    else:
        names = list(dict.fromkeys(os.path.abspath(path) for path in paths))
        missing = [name for name in names if not os.path.isfile(name)]
        if missing or not names:
            raise FileNotFoundError(f"{len(missing)} of {len(names)} pictures are missing: {missing[:20]}")
        example = Transformer.preprocess(model[0], names[:1])["pixel_values"][0]
        if image_cache.serves(processor, names[0], example):
            cache = ImageCache(names, image_cache.preprocessed(processor, names, folder), settings)
        else:
            kind = type(processor).__name__
            print(f"No image cache: {kind} does more than resize, crop, rescale and normalise.")
            cache = ImageCache([], np.empty(0, np.uint8), settings)
    model[0].__class__, model[0].image_cache = _CachedTransformer, cache
    return cache


class _CachedTransformer(Transformer):
    """The library's module, with pictures answered from a cache, and texts of like length read together.

    A batch is padded to its longest text, which for captions doubles a CPU's work; texts do not see one
    another, so parts of a batch give the same vectors.
    """

    ROWS = 32  # texts that go through the tower together
    image_cache: ImageCache | None = None

    def preprocess(self, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.image_cache is not None and inputs and all(item in self.image_cache for item in inputs):
            return {"pixel_values": self.image_cache.pixels(inputs), "modality": "image"}
        if missing := next(filter(_names_no_file, inputs), None):
            raise FileNotFoundError(f"{missing}: no such picture (the library would take the path for a text)")
        return super().preprocess(inputs, *args, **kwargs)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        mask = features.get("attention_mask")
        plain = features.keys() <= {"input_ids", "attention_mask", "modality"}
        if mask is None or not plain or mask.device.type != "cpu" or len(mask) <= self.ROWS:
            return super().forward(features, **kwargs)
        lengths = mask.sum(1)
        order = lengths.argsort()
        parts = []
        for rows in order.split(self.ROWS):
            longest = int(lengths[rows[-1]])
            part = {name: features[name][rows, :longest] for name in ("input_ids", "attention_mask")}
            part = {**features, **part}
            parts.append(super().forward(part, **kwargs)["sentence_embedding"])
        return {**features, "sentence_embedding": torch.cat(parts)[order.argsort()]}

    def __reduce__(self) -> tuple:
        return _new_module, (), self.__dict__  # its class cannot be looked up by the name that it has


# A model is saved with the names of its modules' classes: with the library's, it loads without this course.
_CachedTransformer.__module__ = Transformer.__module__
_CachedTransformer.__name__ = _CachedTransformer.__qualname__ = Transformer.__name__


def _new_module() -> _CachedTransformer:
    return _CachedTransformer.__new__(_CachedTransformer)


def _names_no_file(item: object) -> bool:
    """Whether `item` reads as the path of a picture that is not there; a sentence ending in one does not."""
    if not isinstance(item, str) or not item.lower().endswith(IMAGE_SUFFIXES) or "://" in item:
        return False
    return (os.path.isabs(item) or len(item.split()) == 1) and not os.path.isfile(item)


def _only_cached(name: str, revision: str | None) -> bool:
    """Whether only the files of an earlier download can be had; the libraries would ask again for minutes."""
    try:
        if os.path.isdir(name) or not try_to_load_from_cache(name, "config.json", revision=revision):
            return False
        model_info(name, revision=revision, timeout=15)
    except HFValidationError:
        return False
    except Exception:  # no network, or a server in trouble
        return True
    return False


def _why_not(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run"
    if "safetensors" in str(error):
        advice = "without *.safetensors, and other weight files are not loaded; a conversion often waits as"
        return f"{advice} a pull request on the Hub: then load owner/name@refs/pr/<its number>"
    return refusal(error, "model") or f"neither a folder with a model nor one that the Hub gives: {error}"


def _check_kind(model: SentenceTransformer, config: dict[str, Any], one_tower: bool, name: str) -> None:
    towers = one_tower or getattr(model[0], "module_output_name", None) == "sentence_embedding"
    if not {"text", "image"} <= set(model.modalities) or not towers or "text_config" not in config:
        raise EncoderError(
            f"{name}: {type(model.transformers_model).__name__} is not a dual encoder of texts and pictures, "
            "nor was it made an embedder of both; choose a CLIP or SigLIP model, for example "
            "openai/clip-vit-base-patch16"
        )


def _limit_pixels(module: Transformer, name: str, where: dict[str, Any]) -> None:
    """For a vision-language model: Pillow's processor, and a bound on the pixels of a picture."""
    module.processor.image_processor = AutoImageProcessor.from_pretrained(name, backend="pil", **where)
    if (size := module.processor.image_processor.size).longest_edge:  # for these models an area
        size.longest_edge = min(size.longest_edge, max(PIXELS, size.shortest_edge or 0))


def _close_text_traps(module: Transformer, name: str, where: dict[str, Any]) -> None:
    """The model's own text length, and SigLIP's padding to it, which is saved with the model."""
    config = module.config
    if config.model_type == "siglip" and type(module.tokenizer).__name__ == "GemmaTokenizer":
        module.processor.tokenizer = Siglip2Tokenizer.from_pretrained(name, **where)  # Gemma's keeps capitals
    limit = config.text_config.max_position_embeddings
    module.tokenizer.model_max_length = min(module.tokenizer.model_max_length, limit)
    if config.model_type.startswith("siglip"):
        module.processing_kwargs["text"] = {
            "padding": "max_length", "max_length": limit, "truncation": True, "return_attention_mask": False
        }  # fmt: skip
