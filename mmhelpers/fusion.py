"""The parts of the reranker: kept tower states, and the small transformer that is trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch
from torch import Tensor, nn

# Token or patch states (length, width), and the tower's normalised embedding (dim,).
State = tuple[Tensor, Tensor]


class StateCache:
    """Tower states by key; when they outgrow `limit` bytes, the ones unused for longest go first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._states: OrderedDict[Hashable, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, key: Hashable) -> State | None:
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, key: Hashable, state: State) -> None:
        self._states[key] = state
        self.bytes += sum(part.nbytes for part in state)
        while self.bytes > self.limit:
            self.bytes -= sum(part.nbytes for part in self._states.popitem(last=False)[1])

    def clear(self) -> None:
        self._states.clear()
        self.bytes = 0


class Fusion(nn.Module):
    """The trained part: tokens attend to one another and to patches; what they find becomes one number."""

    def __init__(
        self,
        text_width: int,
        image_width: int,
        patches: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width))
        self.image = nn.Sequential(
            nn.LayerNorm(image_width), nn.Linear(image_width, width), nn.LayerNorm(width)
        )
        self.position = nn.Parameter(torch.randn(patches, width))
        layer = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        self.correction = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))
        for weight in self.correction[-1].parameters():
            nn.init.zeros_(weight)  # untrained, it ranks exactly as the retriever does
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features of `FusionReranker.preprocess` -> logits, float (pairs,)."""
        dtype, rows = self.log_scale.dtype, features["text_index"]
        text = self.text(features["text_states"].to(dtype))[rows]
        image = self.image(features["image_states"].to(dtype)) + self.position
        present = features["text_mask"][rows]
        found = self.layers(text, image[features["image_index"]], tgt_key_padding_mask=~present)
        mean = (found * present.unsqueeze(-1)).sum(1) / present.sum(1, keepdim=True)
        end = found[torch.arange(len(found), device=found.device), present.sum(1) - 1]
        correction = self.correction(torch.cat([mean, end], dim=-1)).squeeze(-1)
        return self.log_scale.exp() * features["cosine"].to(dtype) + self.bias + correction
