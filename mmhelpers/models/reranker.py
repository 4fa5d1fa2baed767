"""A cross-encoder for pictures: text tokens look at image patches, and their score joins the retriever's.

Two towers squeeze a text and a picture into one vector each before they meet, and which colour belongs to
which product is lost on the way. Here they meet token by patch. The towers are frozen, so their states are
computed once per text and per picture and kept; scoring a pair then costs one small pass.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.torch import load_model, save_model
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import InputModule, Transformer
from sentence_transformers.cross_encoder.model_card import CrossEncoderModelCardData
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmhelpers.data.hub import refusal
from mmhelpers.data.images import text_bar
from mmhelpers.models.encoders import EncoderError
from mmhelpers.models.fusion import Fusion

Picture = str | os.PathLike | Image.Image
# Token or patch states (length, width of the tower), and the embedding (dim,), which is normalised.
State = tuple[Tensor, Tensor]


class FusionReranker(InputModule):
    """Sentence Transformers module that scores pairs of a text and a picture with one logit.

    Args:
        towers: a CLIP- or SigLIP-style `Transformer` module; used as it is and frozen.
        heads, width: of the `Fusion`. cache_bytes: of the states kept, for texts and for pictures each.
    """

    config_file_name = "fusion_config.json"
    config_keys = ["heads", "width"]
    weights_file_name = "fusion.safetensors"
    tower_folder = "towers"

    def __init__(self, towers: Transformer, heads: int = 4, width: int = 128, cache_bytes: int = 2 << 30) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.towers = towers.requires_grad_(False).eval()
        config, patches = towers.config, towers.model.vision_model.embeddings.num_patches
        self.dim = getattr(config, "projection_dim", config.vision_config.hidden_size)
        self.fusion = Fusion(config.text_config.hidden_size, config.vision_config.hidden_size, patches, heads, width)
        self.texts, self.images = (LRUCache(cache_bytes, getsizeof=_size) for _ in range(2))

    @property
    def modalities(self) -> list[str]:
        return ["text", "image"]

    @property
    def tokenizer(self) -> Any:
        return self.towers.tokenizer

    def train(self, mode: bool = True) -> FusionReranker:
        self.training = mode
        self.fusion.train(mode)  # the towers stay as they are; walking through them at every step costs time
        return self

    def preprocess(self, inputs: Sequence[tuple[str, Picture]] | Sequence[str], **kwargs: Any) -> dict[str, Tensor]:
        """Pairs of a text and a picture (path or PIL image) -> their tower states, from the cache if there.

        Texts alone, as the trainer passes them to count tokens for the model card, are only tokenised.

        Returns:
            text_states (texts, tokens, width), text_mask (texts, tokens), text_vectors (texts, dim), and for
            every pair text_index (pairs,), image_states (pairs, patches, width), image_vectors (pairs, dim).
        """
        if isinstance(inputs[0], str):
            return self.towers.preprocess(list(inputs))
        keyed = [picture_key(picture) for _, picture in inputs]
        text_states = self._states("text", {text: text for text, _ in inputs})
        image_states = self._states("image", dict(zip(keyed, (pair[1] for pair in inputs), strict=True)))
        text_at = {text: position for position, text in enumerate(text_states)}
        tokens, text_vectors = zip(*text_states.values(), strict=True)
        # Pictures hardly repeat: copied here in the order of the pairs, they need not be gathered later.
        patches, image_vectors = zip(*(image_states[key] for key in keyed), strict=True)
        lengths = torch.tensor([len(states) for states in tokens])
        return {
            "text_states": pad_sequence(tokens, batch_first=True),
            "text_mask": torch.arange(int(lengths.max())) < lengths.unsqueeze(1),
            "text_vectors": torch.stack(text_vectors),
            "image_states": torch.stack(patches),
            "image_vectors": torch.stack(image_vectors),
            "text_index": torch.tensor([text_at[text] for text, _ in inputs]),
        }

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        features["scores"] = self.fusion(features).unsqueeze(1)
        return features

    def precompute(self, texts: Sequence[str], images: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """Fill the caches with the states of `texts` and `images`.

        Returns: their embeddings, which the same pass gives besides: float32 (texts, dim) and (images, dim).
        """
        of_texts = self._states("text", {text: text for text in sorted(texts, key=len)})  # little padding
        keys = [picture_key(image) for image in images]
        of_images = self._states("image", dict(zip(keys, images, strict=True)))
        empty = torch.zeros(0, self.dim)
        sides = ((of_texts[text] for text in texts), (of_images[key] for key in keys))
        vectors = [[vector for _, vector in side] for side in sides]
        return tuple(torch.stack(side) if side else empty for side in vectors)

    def clear_cache(self) -> None:
        self.texts.clear()
        self.images.clear()

    @property
    def _device(self) -> torch.device:
        return self.fusion.bias.device

    def _states(self, modality: str, items: dict[Hashable, Any], chunk: int = 64) -> dict[Hashable, State]:
        """The states of texts or pictures by key, from the cache or computed now."""
        # The result holds its own references: a cache smaller than one batch still gives right answers.
        cache = self.texts if modality == "text" else self.images
        states = {key: cache.get(key) for key in items}
        missing = [key for key, state in states.items() if state is None]
        starts = range(0, len(missing), chunk)
        for start in text_bar(starts, f"states of {modality}s", len(starts)) if len(starts) > 1 else starts:
            keys = missing[start : start + chunk]
            for key, state in zip(keys, self._encode(modality, [items[key] for key in keys]), strict=True):
                states[key] = state
                with contextlib.suppress(ValueError):  # larger than the whole cache
                    cache[key] = state
        return states

    def _encode(self, modality: str, items: list[Any]) -> list[State]:
        features = self.towers.preprocess([os.fspath(i) if isinstance(i, Path) else i for i in items])
        lengths = self._text_lengths(features) if modality == "text" else [None] * len(items)
        if modality == "image" and "pixel_values" not in features:
            raise ValueError(f"not recognised as image files (check their endings): {items[:3]}")
        kept = torch.float16 if self._device.type == "cuda" else torch.float32
        method, names = getattr(self.towers.model, f"get_{modality}_features"), _MODEL_INPUTS[modality]
        inputs = {name: features[name].to(self._device) for name in names if name in features}
        # predict() runs in inference mode; its tensors could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            output = method(**inputs, output_hidden_states=True)
            vectors = nn.functional.normalize(output.pooler_output.float(), dim=-1).cpu()
            # What the last layer makes of a patch, nothing in training ever looks at: take what goes into it.
            states = output.hidden_states[-1 if modality == "text" else -2].to("cpu", kept)
            if modality == "image":
                states = states[:, -self.fusion.position.shape[0] :]  # CLIP's first one is of the class token
        return [(row[:n].clone(), vector.clone()) for row, n, vector in zip(states, lengths, vectors, strict=True)]

    def _text_lengths(self, features: dict[str, Tensor]) -> list[int]:
        """How many tokens of each text are no padding."""
        # SigLIP's tokenizers give no mask; the first one pads with its end token, which counts once.
        mask = features.get("attention_mask", features["input_ids"] != self.tokenizer.pad_token_id)
        end = "attention_mask" not in features and self.tokenizer.pad_token_id == self.tokenizer.eos_token_id
        return (mask.sum(1) + int(end)).tolist()

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write config, fusion weights and the whole towers (with processor): the folder stands alone."""
        self.save_config(output_path)
        save_model(self.fusion, str(Path(output_path, self.weights_file_name)))
        Path(output_path, self.tower_folder).mkdir(exist_ok=True)
        self.towers.save(str(Path(output_path, self.tower_folder)))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> FusionReranker:
        """Read what `save` wrote; only safetensors and JSON are read, no code and no pickle."""
        folder = Path(model_name_or_path, subfolder)
        if not (folder / cls.weights_file_name).is_file():
            raise FileNotFoundError(f"{folder / cls.weights_file_name} is missing: no reranker was saved there")
        towers = Transformer.load(
            str(folder / cls.tower_folder), local_files_only=True, trust_remote_code=False,
            model_kwargs={"use_safetensors": True}, processor_kwargs={"backend": "pil"},
        )  # fmt: skip
        module = cls(towers, **cls.load_config(str(folder)))
        load_model(module.fusion, str(folder / cls.weights_file_name))
        return module


def build_reranker(encoder: SentenceTransformer, heads: int = 4, width: int = 128, seed: int = 0) -> CrossEncoder:
    """A CrossEncoder with an untrained fusion on a copy of the encoder's towers.

    `predict` gives raw logits; a sigmoid would make ties of large ones. `seed` is of the first weights. With
    `reranker[0].fusion.trust.fill_(1e6)` it ranks as the encoder does.

    Raises: ValueError: the encoder has further modules that change its embedding's direction.
    """
    source, *rest = encoder
    if not isinstance(source, Transformer) or not all(isinstance(module, Normalize) for module in rest):
        kinds = [type(module).__name__ for module in encoder]
        raise ValueError(f"expected an encoder of one Transformer module, got {kinds}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = FusionReranker(copy.deepcopy(source), heads, width)
    return _cross_encoder(module, str(encoder.device))


def load_reranker(path: str | Path, device: str | None = None) -> CrossEncoder:
    """Load a saved reranker, from its folder or from the Hub ("owner/name@revision"); none of its code runs.

    Raises: FileNotFoundError: a part of the reranker is not in the folder. EncoderError: the Hub has none.
    """
    if not Path(path).exists():
        repository, _, revision = str(path).partition("@")
        try:
            files = ["*.json", "*.safetensors", "*.txt", "*.model"]  # tokenizers have the last two
            path = snapshot_download(repository, revision=revision or None, allow_patterns=files)
        except Exception as error:
            why = f"neither a folder nor a reranker that the Hub gives: {refusal(error, 'model') or error}"
            raise EncoderError(f"{path}: {why}") from error
    return _cross_encoder(FusionReranker.load(str(path)), device)


def picture_key(picture: Picture) -> Hashable:
    """What tells a picture from others: its pixels, or its path with time and size."""
    if isinstance(picture, Image.Image):
        return picture.mode, picture.size, hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
    path = os.fspath(picture)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"image {path!r} is not a file; pairs are (text, image path or PIL image)")
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size  # a picture drawn anew is not the old one


def _size(state: State) -> int:
    return sum(part.nbytes for part in state)


def _cross_encoder(module: FusionReranker, device: str | None) -> CrossEncoder:
    # Without widget examples: the library's own are pairs of texts, which this model cannot score.
    card = CrossEncoderModelCardData(generate_widget_examples=False)
    return CrossEncoder(modules=[module], device=device, activation_fn=nn.Identity(), model_card_data=card)


_MODEL_INPUTS = {"text": ("input_ids", "attention_mask"), "image": ("pixel_values",)}
