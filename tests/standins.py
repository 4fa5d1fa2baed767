"""Tiny random models in folders of the Hub's layout: real classes, weights that know nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers as hf
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from tokenizers import pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmhelpers.shop.spec import COLOURS, KINDS, MOTIFS, PATTERNS

CLIP, VLM = "openai/clip-vit-base-patch32", "Qwen/Qwen3-VL-Embedding-2B"
SIGLIP, SIGLIP2 = "google/siglip-base-patch16-224", "google/siglip2-base-patch16-224"
_WORDS = " ".join((*KINDS, *COLOURS, *PATTERNS, *MOTIFS, "a an the and with on of photo left above")).split()
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def pictures(folder: str | Path, n: int = 6, size: tuple[int, int] = (96, 96)) -> list[Path]:
    """Write `n` differing PNG pictures of `size` (width, height) pixels to `folder`; returns their paths."""
    (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
    paths = [folder / f"picture_{index:03d}.png" for index in range(n)]
    for index, path in enumerate(paths):
        picture = Image.linear_gradient("L").rotate(37 * index).resize(size)
        bands = [picture, picture.rotate(90).resize(size), Image.new("L", size, 20 * index % 255)]
        Image.merge("RGB", bands).save(path)
    return paths


def fit(model: SentenceTransformer, columns: dict, folder: Path, loss: Any = None, **settings: Any) -> Any:
    """Train `model` a little, without noise; returns the SentenceTransformerTrainer."""
    small = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "use_cpu": True}
    quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "report_to": "none"}
    arguments = Arguments(str(folder), **{**small, **quiet, **settings})
    data, loss = Dataset.from_dict(columns), loss or MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model, arguments, data, loss=loss)
    trainer.train()
    return trainer


def tiny_clip(folder: str | Path, patch: int = 16, size: int = 96, **text: int) -> Path:
    """Write a CLIP of 2 layers, width 32, projection 16 to `folder` (77 text positions); returns `folder`."""
    folder = Path(folder)
    vocab, merges = _bpe([], _WORDS, "</w>")
    start, end = len(vocab), len(vocab) + 1
    vocab |= {"<|startoftext|>": start, "<|endoftext|>": end}
    text = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end} | text
    config = hf.CLIPConfig(
        text_config={**_TOWER, **text, "vocab_size": len(vocab), "projection_dim": 16},
        vision_config={**_TOWER, "image_size": size, "patch_size": patch, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    hf.CLIPModel(config).eval().save_pretrained(folder)
    tokenizer = hf.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    hf.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def tiny_siglip(folder: str | Path, patch: int = 16) -> Path:
    """Write a SigLIP of 2 layers, width 32 to `folder` (64 text positions); returns `folder`."""
    return hub_siglip(folder, patch, 96)


# From here on: files of repositories on the Hub, as they are there. Which files there are, their settings
# and the names of classes are theirs; widths, depths and vocabularies are tiny.
def hub_clip(folder: str | Path) -> Path:
    """Write CLIP with its first files: plain sizes, no processor_config.json, a wrong end token (2: the largest id)."""
    folder = tiny_clip(folder, 32, 224, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    (folder / "processor_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config |= {"text_config_dict": None, "vision_config_dict": None, "torch_dtype": config.pop("dtype")}
    return _write(folder, {"config.json": config, "preprocessor_config.json": {
        "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3,
        "feature_extractor_type": "CLIPFeatureExtractor", "size": 224,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }})  # fmt: skip


def hub_siglip(folder: str | Path, patch: int = 16, size: int = 224) -> Path:
    """Write SIGLIP: a SentencePiece model, which takes capitals and punctuation away, no tokenizer.json."""
    folder, pieces = Path(folder), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*_WORDS, "abcdefghijklmnopqrstuvwxyz 0123456789"]), model_writer=pieces, vocab_size=200,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
    )  # fmt: skip
    vocab_size = sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue()).get_piece_size()
    _hub_siglip_model(folder, vocab_size, patch, size)
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    special = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    return _write(folder, {"tokenizer_config.json": {
        "added_tokens_decoder": {"1": {"content": "</s>", **special}, "2": {"content": "<unk>", **special}},
        "additional_special_tokens": [], "clean_up_tokenization_spaces": True, "do_lower_case": True,
        "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "sp_model_kwargs": {}, "model_max_length": 64,
        "model_input_names": ["input_ids"], "processor_class": "SiglipProcessor", "tokenizer_class": "SiglipTokenizer",
    }})  # fmt: skip


def hub_siglip2(folder: str | Path) -> Path:
    """Write SIGLIP2: a SigLIP in its config, with the tokenizer of Gemma, which does not lower-case."""
    folder = Path(folder)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = ["\u2581", *(chr(code) for code in range(33, 127))]
    words = [variant for word in _WORDS for variant in (word, word.capitalize())]
    vocab, merges = _bpe(specials, words, alphabet=letters)
    more = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right", "do_lower_case": True}
    more |= {"model_max_length": 64, "model_input_names": ["input_ids"]}
    hf.GemmaTokenizer(vocab=vocab, merges=merges, **more).save_pretrained(folder)
    return _hub_siglip_model(folder, len(vocab))


def _hub_siglip_model(folder: Path, vocab_size: int, patch: int = 16, size: int = 224) -> Path:
    """Weights, a config without token ids (so that CLIP's stand in it), and the processor's old file."""
    text = {**_TOWER, "vocab_size": vocab_size, "model_type": "siglip_text_model"}
    vision = {**_TOWER, "image_size": size, "patch_size": patch, "model_type": "siglip_vision_model"}
    torch.manual_seed(0)
    hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision)).eval().save_pretrained(folder)
    config = {"architectures": ["SiglipModel"], "model_type": "siglip", "torch_dtype": "float32"}
    return _write(folder, {
        "config.json": config | {"text_config": text, "vision_config": vision},
        "preprocessor_config.json": {
            "do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 1 / 255, "resample": 3,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": size, "width": size},
            "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor",
        },
    })  # fmt: skip


def tiny_vlm(folder: str | Path) -> Path:
    """Write VLM as a Sentence Transformers model: it reads chats with pictures in them; last token, normalised."""
    folder = Path(folder)
    names = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    specials = [f"<|{name}|>" for name in names]
    vocab, merges = _bpe([], _WORDS)
    vocab |= {token: len(vocab) + i for i, token in enumerate(["<|endoftext|>", *specials])}
    special = {"extra_special_tokens": specials, "eos_token": "<|im_end|>"}
    hf.Qwen2Tokenizer(vocab=vocab, merges=merges, model_max_length=262144, **special).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(
        "<|im_start|>system\nRepresent the input.<|im_end|>\n"
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
        "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
        "{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 262144}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = hf.Qwen3VLConfig(
        text_config={**_TOWER, **text, "vocab_size": len(vocab), "rope_parameters": rope},
        vision_config={**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        **{f"{name}_token_id": vocab[f"<|{name}_pad|>"] for name in ("image", "video")},
        **{f"{name}_token_id": vocab[f"<|{name}|>"] for name in ("vision_start", "vision_end")},
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    hf.Qwen3VLForConditionalGeneration(config).eval().save_pretrained(folder)
    both = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "processor_class": "Qwen3VLProcessor"}
    both |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"longest_edge": 2**24, "shortest_edge": 4096}}
    state = {"method": "forward", "method_output_name": "last_hidden_state"}
    kinds = dict.fromkeys(("text", "image", "video"), state) | {"message": state | {"format": "structured"}}
    package, parts = "sentence_transformers.sentence_transformer.modules", ("1_Pooling", "2_Normalize")
    types = {"": "sentence_transformers.base.modules.transformer.Transformer"}
    types |= {part: f"{package}.{part[2:].lower()}.{part[2:]}" for part in parts}
    modules = [dict(idx=i, name=str(i), path=path, type=name) for i, (path, name) in enumerate(types.items())]
    return _write(folder, {
        "preprocessor_config.json": both | {"image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": both | {"video_processor_type": "Qwen3VLVideoProcessor"},
        # What makes it a model of Sentence Transformers.
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction", "module_output_name": "token_embeddings", "unpad_inputs": False,
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}}, "modality_config": kinds,
        },
        "modules.json": modules, "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": "lasttoken"},
        "config_sentence_transformers.json": {"model_type": "SentenceTransformer"},
    })  # fmt: skip


def _bpe(
    specials: list[str], words: list[str], suffix: str = "", alphabet: list[str] | None = None
) -> tuple[dict, list]:
    """A vocabulary and its merges, in which `words` are one token each; by default every byte can stand."""
    alphabet = alphabet or sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*specials, *alphabet, *(letter + suffix for letter in alphabet)])
    merges: dict[tuple[str, str], None] = {}
    for word in filter(str.isalpha, words):
        head, *pieces = [*word[:-1], word[-1] + suffix]
        for piece in pieces:
            merges[head, piece] = None
            head += piece
            tokens[head] = None
    return {token: index for index, token in enumerate(tokens)}, list(merges)


def _write(folder: Path, files: dict[str, Any]) -> Path:
    """Write JSON files, by name, and a model card that says nothing; returns `folder`."""
    (folder / "README.md").write_text("---\ntags: [vision]\n---\n# A model\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder
