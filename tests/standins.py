"""Tiny random models in folders of the Hub's layout: real classes, weights that know nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    GemmaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmhelpers.shop.spec import COLOURS, KINDS, MOTIFS, PATTERNS

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


# The files of these repositories as they are on the Hub: which there are, their settings, and the names of
# classes. Widths, depths and vocabularies are tiny.
CLIP, SIGLIP, SIGLIP2 = (
    "openai/clip-vit-base-patch32", "google/siglip-base-patch16-224", "google/siglip2-base-patch16-224"
)  # fmt: skip
CLIP_SIZES = {
    CLIP: {"patch": 32, "text": 32, "vision": 48, "projection": 32},
    "openai/clip-vit-large-patch14": {"patch": 14, "text": 48, "vision": 64, "projection": 48},
    "wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M": {"patch": 16, "text": 16, "vision": 16, "projection": 40},
}
VLM = "Qwen/Qwen3-VL-Embedding-2B"


def hub_clip(folder: str | Path, name: str = CLIP, weights: str = "safetensors") -> Path:
    """Write one of CLIP_SIZES, with the files of the first days; returns `folder`.

    That is: sizes as plain numbers, a vocabulary apart, no processor_config.json, and in the oldest configs
    an end token that is wrong (2, for which the text is pooled where the largest id stands).

    Args:
        weights: "safetensors", as CLIP has them on its refs/pr/15; "pickle", as on its main branch; "shards",
            as large models have them, with an index.
    """
    folder, sizes = Path(folder), CLIP_SIZES[name]
    vocab, merges = _bpe([], "</w>")
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocab |= {start: len(vocab), end: len(vocab) + 1}  # the highest ids, which the wrong id relies on
    ids = (0, 2) if name.startswith("openai/") else (vocab[start], vocab[end])
    text = dict(zip(("bos_token_id", "eos_token_id"), ids, strict=True)) | {"pad_token_id": 1}
    shared = {"projection_dim": sizes["projection"], "hidden_act": "quick_gelu", "dropout": 0.0}
    config = {
        "_name_or_path": name, "architectures": ["CLIPModel"], "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": sizes["projection"],
        "text_config_dict": None, "vision_config_dict": None, "torch_dtype": "float32",
        "transformers_version": None,
        "text_config": {**_TOWER, **shared, **text, "hidden_size": sizes["text"], "vocab_size": len(vocab),
                        "max_position_embeddings": 77, "model_type": "clip_text_model", "torch_dtype": None},
        "vision_config": {**_TOWER, **shared, "hidden_size": sizes["vision"], "patch_size": sizes["patch"],
                          "image_size": 224, "model_type": "clip_vision_model", "torch_dtype": None},
    }  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(**config)).eval()
    model.save_pretrained(folder, max_shard_size="40KB" if weights == "shards" else "5GB")
    if weights == "pickle":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(folder)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    tokens = {name: {"content": end, **special} for name in ("unk_token", "bos_token", "eos_token")}
    tokens["bos_token"]["content"] = start
    return _write(folder, {
        "config.json": config,
        "vocab.json": vocab,
        "special_tokens_map.json": {**tokens, "pad_token": end},
        "tokenizer_config.json": {
            **{name: {**value, "__type": "AddedToken"} for name, value in tokens.items()}, "pad_token": end,
            "add_prefix_space": False, "errors": "replace", "do_lower_case": True, "name_or_path": name,
            "model_max_length": 77, "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
        },
        "preprocessor_config.json": {
            "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    })  # fmt: skip


def hub_siglip(folder: str | Path) -> Path:
    """Write SIGLIP: a SentencePiece model, which takes capitals and punctuation away, no tokenizer.json."""
    folder, pieces = Path(folder), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*_WORDS, "abcdefghijklmnopqrstuvwxyz 0123456789"]), model_writer=pieces,
        vocab_size=200, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        num_threads=1,
    )  # fmt: skip
    size = sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue()).get_piece_size()
    _hub_siglip_model(folder, vocab_size=size)
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    special = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False}
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    return _write(folder, {
        "special_tokens_map.json": {name: {"content": token, **special} for name, token in names.items()},
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(number): {"content": token, **special, "special": True}
                for number, token in ((1, "</s>"), (2, "<unk>"))
            },
            "additional_special_tokens": [], "clean_up_tokenization_spaces": True, "do_lower_case": True,
            "model_input_names": ["input_ids"], "model_max_length": 64, "processor_class": "SiglipProcessor",
            "sp_model_kwargs": {}, "tokenizer_class": "SiglipTokenizer", **names,
        },
    })  # fmt: skip


def hub_siglip2(folder: str | Path) -> Path:
    """Write SIGLIP2: a SigLIP in its config, with the tokenizer of Gemma, which does not lower-case."""
    folder = Path(folder)
    letters = [chr(code) for code in range(33, 127)]
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = dict.fromkeys([*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters])
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS:  # capitals have tokens of their own, as in the real vocabulary
        for variant in (word, word.capitalize()):
            head = variant[0]
            for piece in variant[1:]:
                merges[head, piece] = None
                head += piece
                tokens[head] = None
    vocab = {token: index for index, token in enumerate(tokens)}
    sides = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right", "do_lower_case": True}
    names = {"model_max_length": 64, "model_input_names": ["input_ids"]}
    tokenizer = GemmaTokenizer(vocab=vocab, merges=list(merges), **sides, **names)
    tokenizer.save_pretrained(folder)
    _hub_siglip_model(folder, vocab_size=len(vocab))
    return folder


def _hub_siglip_model(folder: Path, vocab_size: int) -> None:
    """Weights, a config without token ids (so that CLIP's stand in it), and the processor's old file."""
    config = {
        "architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip",
        "text_config": {**_TOWER, "vocab_size": vocab_size, "model_type": "siglip_text_model"},
        "torch_dtype": "float32", "transformers_version": "4.37.0.dev0",
        "vision_config": {**_TOWER, "image_size": 224, "patch_size": 16, "model_type": "siglip_vision_model"},
    }  # fmt: skip
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(**config)).eval().save_pretrained(folder)
    _write(folder, {"config.json": config, "preprocessor_config.json": {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5] * 3, "resample": 3,
        "processor_class": "SiglipProcessor", "rescale_factor": 1 / 255,
        "size": {"height": 224, "width": 224},
    }})  # fmt: skip


CHAT = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].content is string %}{{- messages[0].content }}
    {%- else %}{%- for content in messages[0].content %}{{- content.text }}{%- endfor %}{%- endif %}
    {{- '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>system\nRepresent the input.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\n' }}
        {%- if message.content is string %}{{- message.content }}
        {%- else %}
            {%- for content in message.content %}
                {%- if content.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
                {%- elif content.type == 'text' %}{{- content.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""


def tiny_vlm(folder: str | Path) -> Path:
    """Write VLM: one transformer that reads chats with pictures in them, last token, normalised.

    The layout is that of a Sentence Transformers model: a chat template, Pooling and Normalize.
    """
    folder = Path(folder)
    specials = ["<|im_start|>", "<|im_end|>"]
    specials += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    vocab, merges = _bpe([], "")
    vocab |= {token: len(vocab) + i for i, token in enumerate(["<|endoftext|>", *specials])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        model_max_length=262144,
        extra_special_tokens=specials,
        eos_token="<|im_end|>",
    )
    tokenizer.save_pretrained(folder)
    text = {**_TOWER, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(vocab)}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen3VLConfig(
        text_config={**text, "max_position_embeddings": 262144, "rope_parameters": rope},
        vision_config={**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        image_token_id=vocab["<|image_pad|>"],
        video_token_id=vocab["<|video_pad|>"],
        vision_start_token_id=vocab["<|vision_start|>"],
        vision_end_token_id=vocab["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).eval().save_pretrained(folder)
    both = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3}
    both |= {"image_std": [0.5] * 3, "size": {"longest_edge": 16777216, "shortest_edge": 4096}}
    both |= {"processor_class": "Qwen3VLProcessor"}
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    state = {"method": "forward", "method_output_name": "last_hidden_state"}
    kinds = dict.fromkeys(("text", "image", "video"), state) | {"message": state | {"format": "structured"}}
    modules = {
        "": "base.modules.transformer.Transformer",
        "1_Pooling": "sentence_transformer.modules.pooling.Pooling",
        "2_Normalize": "sentence_transformer.modules.normalize.Normalize",
    }
    return _write(folder, {
        "preprocessor_config.json": both | {"image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": both | {"video_processor_type": "Qwen3VLVideoProcessor"},
        # What makes it a model of Sentence Transformers.
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction", "modality_config": kinds, "unpad_inputs": False,
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
            "module_output_name": "token_embeddings",
        },
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{name}"}
            for number, (path, name) in enumerate(modules.items())
        ],
        "1_Pooling/config.json": {
            "embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer", "similarity_fn_name": "cosine"
        },
    })  # fmt: skip


def _write(folder: Path, files: dict[str, Any]) -> Path:
    """Write JSON files, by name, and a model card that says nothing; returns `folder`."""
    (folder / "README.md").write_text("---\ntags: [vision]\n---\n# A model\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder
