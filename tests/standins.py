"""Tiny random CLIP and SigLIP folders of the standard Hub layout: real classes, weights that know nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmhelpers.catalogue.spec import COLOURS, KINDS, MOTIFS, PATTERNS

_WORDS = " ".join((*KINDS, *COLOURS, *PATTERNS, *MOTIFS, "a an the and with on of photo left above")).split()
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def _bpe(specials: list[str], suffix: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level vocabulary in which every byte can stand, and the shop's words are one token each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*specials, *alphabet, *(a + suffix for a in alphabet)])
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS:
        if word.isalpha():
            pieces = [*word[:-1], word[-1] + suffix]
            head = pieces[0]
            for piece in pieces[1:]:
                merges[head, piece] = None
                head += piece
                tokens[head] = None
    return {token: index for index, token in enumerate(tokens)}, list(merges)


def tiny_clip(folder: str | Path, patch: int = 16, size: int = 96, seed: int = 0) -> Path:
    """Write a CLIP of 2 layers, width 32, projection 16 to `folder` (77 text positions); returns `folder`."""
    vocab, merges = _bpe(["<|startoftext|>", "<|endoftext|>"], "</w>")
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    text = {"vocab_size": len(vocab), "bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**_TOWER, **text, "projection_dim": 16},
        vision_config={**_TOWER, "image_size": size, "patch_size": patch, "projection_dim": 16},
        projection_dim=16,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    torch.manual_seed(seed)
    return _save(CLIPModel(config), CLIPProcessor(images, tokenizer), Path(folder))


def tiny_siglip(folder: str | Path, patch: int = 16, size: int = 96, seed: int = 0) -> Path:
    """Write a SigLIP of 2 layers, width 32 to `folder` (64 text positions, </s> pads); returns `folder`."""
    vocab, merges = _bpe(["<unk>", "</s>"], "")
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=64,
        model_input_names=["input_ids"],  # as the real ones: trained, and used, without an attention mask
    )
    text = {"vocab_size": len(vocab), "max_position_embeddings": 64, "eos_token_id": 1, "pad_token_id": 1}
    config = SiglipConfig(
        text_config={**_TOWER, **text, "bos_token_id": None, "projection_size": 32},
        vision_config={**_TOWER, "image_size": size, "patch_size": patch},
    )
    torch.manual_seed(seed)
    images = SiglipImageProcessorPil(size={"height": size, "width": size})
    return _save(SiglipModel(config), SiglipProcessor(images, tokenizer), Path(folder))


def pictures(folder: str | Path, n: int = 6, size: tuple[int, int] = (96, 96)) -> list[Path]:
    """Write `n` differing PNG pictures of `size` (width, height) pixels to `folder`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"picture_{index:03d}.png" for index in range(n)]
    for index, path in enumerate(paths):
        picture = Image.linear_gradient("L").rotate(37 * index).resize(size)
        bands = [picture, picture.rotate(90).resize(size), Image.new("L", size, 20 * index % 255)]
        Image.merge("RGB", bands).save(path)
    return paths


def _save(model: torch.nn.Module, processor: CLIPProcessor | SiglipProcessor, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
