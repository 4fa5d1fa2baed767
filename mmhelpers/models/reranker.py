"""A cross-encoder for pictures: text tokens look at image patches and correct the retriever's score.

Two towers squeeze a text and a picture into one vector each before they meet, and which colour belongs to
which product is lost on the way. Here they meet token by patch. The towers are frozen, so their states are
computed once per text and per picture and kept; scoring a pair then costs one small pass.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from PIL import Image
from safetensors.torch import load_model, save_model
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import InputModule, Transformer
from sentence_transformers.cross_encoder.model_card import CrossEncoderModelCardData
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from mmhelpers.data.hub import refusal
from mmhelpers.models.encoders import EncoderError, keep_freed_memory
from mmhelpers.models.fusion import Fusion, State, StateCache

Picture = str | os.PathLike | Image.Image


class FusionReranker(InputModule):
    """Sentence Transformers module that scores pairs of a text and a picture with one logit.

    Args:
        towers: A CLIP- or SigLIP-style `Transformer` module; used as it is and frozen.
        slots, width: Size of the fusion, see `Fusion`.
        cache_bytes: States kept in memory, for texts and for pictures each.
    """

    config_file_name = "fusion_config.json"
    config_keys = ["slots", "width"]
    weights_file_name = "fusion.safetensors"
    tower_folder = "towers"

    def __init__(
        self,
        towers: Transformer,
        slots: int = 4,
        width: int = 256,
        cache_bytes: int = 2 << 30,
    ) -> None:
        super().__init__()
        self.slots, self.width = slots, width
        self.towers = towers.requires_grad_(False).eval()
        config, patches = towers.config, towers.model.vision_model.embeddings.num_patches
        dim = getattr(config, "projection_dim", config.vision_config.hidden_size)
        self.fusion = Fusion(dim, patches, slots, width)
        self.texts, self.images = StateCache(cache_bytes), StateCache(cache_bytes)
        self._stamp: tuple = ()
        self._fingerprint = ""

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

    def preprocess(
        self, inputs: Sequence[tuple[str, Picture]] | Sequence[str], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Pairs -> their tower states, each text and picture once, from the cache where it has them.

        Args:
            inputs: (text, image path or PIL image) pairs. Texts alone, which the trainer passes to count
                tokens for the model card, are only tokenised.
            prompt: Put before every text.

        Returns:
            text_states (texts, tokens, dim), text_mask (texts, tokens), text_vectors (texts, dim), and for
            every pair text_index (pairs,), image_states (pairs, patches, dim), image_vectors (pairs, dim).

        Raises:
            FileNotFoundError: An image path is not a file.
            ValueError: A pair is not a text and a picture.
        """
        if isinstance(inputs[0], str):
            return self.towers.preprocess(list(inputs), prompt=prompt)
        for pair in inputs:
            if len(pair) != 2 or not isinstance(pair[0], str):
                raise ValueError(f"expected pairs (text, image path or PIL image), got {pair!r}")
        self._drop_stale_states()
        texts = {(prompt or "") + text: None for text, _ in inputs}
        keyed = [_picture_key(picture) for _, picture in inputs]
        pictures = dict(zip(keyed, (picture for _, picture in inputs), strict=True))
        text_states = self._states(self.texts, {text: text for text in texts}, self._encode_texts)
        image_states = self._states(self.images, pictures, self._encode_images)
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
            "text_index": torch.tensor([text_at[(prompt or "") + text] for text, _ in inputs]),
        }

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        features["scores"] = self.fusion(features).unsqueeze(1)
        return features

    @torch.inference_mode()
    def scores(self, text: str, images: Sequence[Picture], batch_size: int = 128) -> np.ndarray:
        """Logits of one text with many pictures: what `CrossEncoder.predict` gives, without its overhead.

        Returns:
            float32 (len(images),).
        """
        self.eval()
        device = self.fusion.bias.device
        parts = [np.zeros(0, dtype=np.float32)]
        for start in range(0, len(images), batch_size):
            features = self.preprocess([(text, image) for image in images[start : start + batch_size]])
            parts.append(self.fusion(batch_to_device(features, device)).float().cpu().numpy())
        return np.concatenate(parts)

    def precompute(
        self,
        texts: Sequence[str],
        images: Sequence[Picture],
        batch_size: int = 64,
        show_progress_bar: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Fill the caches with the states of `texts` and `images`, with a text progress bar.

        Returns:
            What the same pass gives besides: the embeddings of the texts (len(texts), dim) and of the images
            (len(images), dim), float32, normalised, on the CPU; the bi-encoder's own.
        """
        self._drop_stale_states()
        vectors = []
        for name, cache, keys, values, encode in (
            ("texts", self.texts, texts, texts, self._encode_texts),
            ("images", self.images, [_picture_key(image) for image in images], images, self._encode_images),
        ):
            items = dict(zip(keys, values, strict=True))
            order = sorted(items, key=len) if name == "texts" else list(items)  # little padding in a batch
            found: dict[Hashable, Tensor] = {}
            starts = range(0, len(order), batch_size)
            for start in tqdm(starts, desc=f"states of {len(order)} {name}", disable=not show_progress_bar):
                chunk = {key: items[key] for key in order[start : start + batch_size]}
                found |= {key: vector for key, (_, vector) in self._states(cache, chunk, encode).items()}
            dim = self.fusion.key.in_features
            vectors.append(torch.stack([found[key] for key in keys]) if found else torch.zeros(0, dim))
        return vectors[0], vectors[1]

    def clear_cache(self) -> None:
        """Forget all states."""
        self.texts.clear()
        self.images.clear()

    def _drop_stale_states(self) -> None:
        # Versions and addresses are read at every call; contents only when one of them moved, because
        # reloading the same towers from a checkpoint should not cost all states.
        parameters = list(self.towers.parameters())
        stamp = tuple((parameter._version, parameter.data_ptr()) for parameter in parameters)
        if stamp == self._stamp:
            return
        digest = hashlib.blake2b(digest_size=16)
        for parameter in parameters:
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        if digest.hexdigest() != self._fingerprint:
            self.clear_cache()
        self._stamp, self._fingerprint = stamp, digest.hexdigest()

    def _states(
        self,
        cache: StateCache,
        items: dict[Hashable, Any],
        encode: Callable[[list], list[State]],
        chunk: int = 64,
    ) -> dict[Hashable, State]:
        # The result holds its own references: a cache smaller than one batch still gives right answers.
        states = {key: cache.get(key) for key in items}
        missing = [key for key, state in states.items() if state is None]
        for start in range(0, len(missing), chunk):
            keys = missing[start : start + chunk]
            for key, state in zip(keys, encode([items[key] for key in keys]), strict=True):
                states[key] = state
                cache.put(key, state)
        return states

    def _encode_texts(self, texts: list[str]) -> list[State]:
        features = self.towers.preprocess(texts)
        ids = features["input_ids"]
        # SigLIP's tokenizers give no mask; the first one pads with its end token, which counts once.
        mask = features.get("attention_mask", ids != self.tokenizer.pad_token_id)
        end = "attention_mask" not in features and self.tokenizer.pad_token_id == self.tokenizer.eos_token_id
        lengths = (mask.sum(1) + int(end)).tolist()
        return self._encode("text", features, lengths)

    def _encode_images(self, images: list[Picture]) -> list[State]:
        images = [image if isinstance(image, Image.Image) else os.fspath(image) for image in images]
        features = self.towers.preprocess(images)
        if "pixel_values" not in features:
            raise ValueError(f"not recognised as image files (check their endings): {images[:3]}")
        return self._encode("image", features, [None] * len(images))

    def _encode(self, modality: str, features: dict[str, Any], lengths: list[int | None]) -> list[State]:
        device = self.fusion.bias.device
        kept = torch.float16 if device.type == "cuda" else torch.float32
        method = getattr(self.towers.model, f"get_{modality}_features")
        inputs = {key: features[key].to(device) for key in _MODEL_INPUTS[modality] if key in features}
        # predict() runs in inference mode; its tensors could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            output = method(**inputs)
            vectors = nn.functional.normalize(output.pooler_output.float(), dim=-1).cpu()
            states = _in_shared_space(self.towers.model, modality, output.last_hidden_state).float()
            states = nn.functional.normalize(states, dim=-1).to("cpu", kept)
        return [
            (row[:n].clone(), vector.clone()) for row, n, vector in zip(states, lengths, vectors, strict=True)
        ]

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write config, fusion weights and the whole towers (with processor): the folder stands alone."""
        if not safe_serialization:
            raise ValueError("the reranker is saved as safetensors only; leave safe_serialization=True")
        self.save_config(output_path)
        save_model(self.fusion, str(Path(output_path, self.weights_file_name)))
        Path(output_path, self.tower_folder).mkdir(exist_ok=True)
        self.towers.save(str(Path(output_path, self.tower_folder)))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> FusionReranker:
        """Read what `save` wrote; only safetensors and JSON are read, no code and no pickle."""
        folder = Path(model_name_or_path, subfolder)
        for name in (cls.config_file_name, cls.weights_file_name, f"{cls.tower_folder}/model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing: no reranker was saved in {folder}")
        towers = Transformer.load(
            str(folder / cls.tower_folder),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
            processor_kwargs={"backend": "pil"},
        )
        module = cls(towers, **cls.load_config(str(folder)))
        load_model(module.fusion, str(folder / cls.weights_file_name))
        return module


def _in_shared_space(model: nn.Module, modality: str, states: Tensor) -> Tensor:
    """Do to all tokens or patches what the tower does to the one that becomes its embedding."""
    if modality == "text":
        return (model.text_projection if hasattr(model, "text_projection") else model.text_model.head)(states)
    if hasattr(model, "visual_projection"):  # CLIP, whose first state is that of the class token
        return model.visual_projection(model.vision_model.post_layernorm(states[:, 1:]))
    return states  # SigLIP pools its patches by attention, within their own space


_MODEL_INPUTS = {"text": ("input_ids", "attention_mask"), "image": ("pixel_values",)}


def _picture_key(picture: Picture) -> Hashable:
    if isinstance(picture, Image.Image):
        return picture.mode, picture.size, hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
    path = os.fspath(picture)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"image {path!r} is not a file; pairs are (text, image path or PIL image)")
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size  # a picture drawn anew is not the old one


def build_reranker(
    encoder: SentenceTransformer,
    *,
    slots: int = 4,
    width: int = 256,
    seed: int = 0,
) -> CrossEncoder:
    """Put an untrained fusion on a copy of the encoder's towers; it ranks as the encoder until trained.

    Args:
        encoder: CLIP- or SigLIP-style bi-encoder of one `Transformer` module; it is left untouched.
        slots, width: Size of the fusion, see `Fusion`.
        seed: Of the fusion's first weights.

    Returns:
        CrossEncoder whose `predict` gives raw logits (no sigmoid, which would make ties of large ones).

    Raises:
        ValueError: The encoder has further modules that change its embedding's direction.
    """
    source, *rest = encoder
    if not isinstance(source, Transformer) or not all(isinstance(module, Normalize) for module in rest):
        raise ValueError(
            f"expected an encoder of one Transformer module, got {[type(m).__name__ for m in encoder]}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = FusionReranker(copy.deepcopy(source), slots, width)
    return _cross_encoder(module, str(encoder.device))


def load_reranker(path: str | Path, device: str | None = None) -> CrossEncoder:
    """Load a saved reranker; nothing of it is executed, unlike with `trust_remote_code`.

    Args:
        path: Its folder, or its id on the Hub, "owner/name" or "owner/name@revision".

    Raises:
        FileNotFoundError: A part of the reranker is not in the folder.
        EncoderError: The Hub does not give it.
    """
    keep_freed_memory()
    if not Path(path).exists():
        repository, _, revision = str(path).partition("@")
        try:
            files = ["*.json", "*.safetensors", "*.txt", "*.model"]  # tokenizers have the last two
            path = snapshot_download(repository, revision=revision or None, allow_patterns=files)
        except HFValidationError:
            pass  # no id: a folder that is not there
        except Exception as error:
            why = f"neither a folder nor a reranker that the Hub gives: {refusal(error, 'model') or error}"
            raise EncoderError(f"{path}: {why}") from error
    return _cross_encoder(FusionReranker.load(str(path)), device)


def _cross_encoder(module: FusionReranker, device: str | None) -> CrossEncoder:
    # Without widget examples: the library's own are pairs of texts, which this model cannot score.
    card = CrossEncoderModelCardData(generate_widget_examples=False)
    return CrossEncoder(modules=[module], device=device, activation_fn=nn.Identity(), model_card_data=card)
