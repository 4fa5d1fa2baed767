"""Embedding models that others host, used like a SentenceTransformer: what all providers have in common.

What differs, the request and the answer, stands in notebook 05. (`hosted` is about Colab and Kaggle.)
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from sentence_transformers.util import cos_sim
from tqdm import tqdm
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

from mmhelpers.data.images import load_picture

TIMEOUT = (10, 120)  # seconds: to connect, to answer
PATIENCE = 60  # seconds that a provider may ask us to wait; a used-up day is not waited for
REASONS = {401: "key not accepted", 403: "key not allowed to do this", 429: "too many requests"}


class HostedError(RuntimeError):
    """A provider that refuses, cannot be reached or answers nonsense. It is named; the key never is."""


class HostedModel:
    """A hosted model with the methods of a SentenceTransformer that `evaluation.search` calls.

    Overload and trouble at the other end (429, 5xx, no connection) are tried again, with growing pauses or
    after the time that the provider's Retry-After names.

    Args:
        name: of the provider, for messages.
        key: sent as bearer token to `url`, and never shown.
        url: scheme and host.
        request: of (items, role) with items all `str` (texts) or all `bytes` (JPEG pictures) and role
            "query" or "document" -> the path, and a dict of what `requests.post` takes.
        vectors: of the decoded answer -> one vector an item, in order.
        batch: items a request, at most.
        tries: requests for a batch, at most.
        pause: seconds before the third try, doubled before each later one.
    """

    similarity = staticmethod(cos_sim)

    def __init__(
        self,
        name: str,
        key: str,
        url: str,
        request: Callable[[list[Any], str], tuple[str, dict[str, Any]]],
        vectors: Callable[[Any], Sequence[Sequence[float]]],
        batch: int = 32,
        tries: int = 5,
        pause: float = 1.0,
    ) -> None:
        self.name, self.url, self.batch = name, url.rstrip("/"), batch
        self._request, self._vectors, self._key = request, vectors, key.strip()
        if not (self._key and self._key.isascii() and self._key.isprintable()) or " " in self._key:
            raise HostedError(f"{name}: the key is empty or has characters that no key has; copy it again")
        self._session = requests.Session()
        self._session.headers.update(Authorization=f"Bearer {self._key}", Accept="application/json")
        retry = _Retry(
            tries - 1, backoff_factor=pause, status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("POST",), raise_on_status=False,
        )  # fmt: skip
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def encode(
        self,
        inputs: str | Path | Sequence[str | Path],
        batch_size: int = 32,
        show_progress_bar: bool | None = False,
        convert_to_tensor: bool = False,
        role: str = "document",
    ) -> np.ndarray | torch.Tensor:
        """Embed texts, or pictures given by their paths: float32 (n, dim), or (dim,) for a single one.

        Args:
            inputs: what is the path of a file is a picture, every other string a text; not both in one call.
            batch_size: items a request; never more than the model's `batch`.
            role: "query" or "document", for providers that embed them differently.

        Raises:
            HostedError: the provider refuses, cannot be reached, or answers in another form.
        """
        single = isinstance(inputs, str | Path)
        items, step = [inputs] if single else list(inputs), min(batch_size, self.batch)
        starts = tqdm(range(0, len(items), step), self.name, disable=not show_progress_bar)
        found = np.concatenate([self._ask(items[start : start + step], role) for start in starts])
        found = found[0] if single else found
        return torch.from_numpy(found) if convert_to_tensor else found

    def encode_query(self, inputs: Any, **options: Any) -> np.ndarray | torch.Tensor:
        """As `encode`, for what is asked."""
        return self.encode(inputs, role="query", **options)

    def encode_document(self, inputs: Any, **options: Any) -> np.ndarray | torch.Tensor:
        """As `encode`, for what is found."""
        return self.encode(inputs, role="document", **options)

    def _ask(self, inputs: list[str | Path], role: str) -> np.ndarray:
        items = [jpeg(item) if os.path.isfile(item) else item for item in inputs]
        if len({type(item) for item in items}) > 1:
            raise ValueError(f"{self.name}: texts and pictures in one call, or a path that names no file")
        path, request = self._request(items, role)
        try:
            answer = self._session.post(self.url + path, timeout=TIMEOUT, allow_redirects=False, **request)
        except requests.RequestException as error:
            raise self._error(f"no answer from {self.url} ({type(error).__name__}: {error})") from None
        if answer.status_code != 200:
            reason = REASONS.get(answer.status_code, answer.reason)
            wait = f", try again in {after} s" if (after := answer.headers.get("Retry-After")) else ""
            raise self._error(f"HTTP {answer.status_code}, {reason}{wait}: {answer.text[:300]}")
        try:
            found = np.asarray(self._vectors(answer.json()), dtype=np.float32)
        except (ValueError, TypeError, LookupError) as error:
            raise self._error(f"an answer of unknown form ({error!r}): {answer.text[:300]}") from None
        if found.ndim != 2 or len(found) != len(items):
            raise self._error(f"vectors of shape {found.shape} for {len(items)} items")
        return found

    def _error(self, what: str) -> HostedError:
        return HostedError(f"{self.name}: {what}".replace(self._key, "<key>"))


class _Retry(Retry):
    """The library's retries, but whoever asks for more patience than we have gets no second try."""

    def increment(self, *args: Any, response: Any = None, _pool: Any = None, **more: Any) -> Retry:
        if response and (self.get_retry_after(response) or 0) > PATIENCE:
            raise MaxRetryError(_pool, None)
        return super().increment(*args, response=response, _pool=_pool, **more)


def jpeg(path: str | Path, side: int = 512) -> bytes:
    """A picture as JPEG, no side above `side` pixels, nearly without loss."""
    picture, _ = load_picture(path)
    picture.thumbnail((side, side))
    picture.save(buffer := io.BytesIO(), "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
