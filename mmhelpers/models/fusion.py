"""The part of the reranker that is trained: a small network over tower states."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """Slots, filled from the text, look at the patches; what they find becomes one number.

    All of it happens in the towers' shared space, where a text and a picture that belong together are near
    each other already. A slot begins as the text's embedding, so from the first step it attends to the
    patches that are like the text. `dim` is of that space, `width` of the last layers.
    """

    def __init__(self, dim: int, patches: int, slots: int, width: int) -> None:
        super().__init__()
        self.slots, self.unit = slots, dim**0.5  # a normalised vector times `unit` has entries around 1
        self.start = nn.Linear(dim, slots * dim)
        with torch.no_grad():
            self.start.weight.normal_(std=0.02).add_(torch.eye(dim).repeat(slots, 1))
        self.seek = nn.Parameter(torch.randn(slots, dim) / dim**0.5)
        self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.position = nn.Parameter(torch.zeros(patches, dim))
        self.sharpness = nn.Parameter(torch.tensor(10.0).log())
        found = (slots + 3) * dim + slots + 1
        self.correction = nn.Sequential(nn.LayerNorm(found), nn.Linear(found, width), nn.GELU(), nn.Linear(width, 1))
        for part in (self.start.bias, *self.value.parameters(), *self.correction[-1].parameters()):
            nn.init.zeros_(part)  # untrained, it ranks exactly as the retriever does
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features of `FusionReranker.preprocess` -> logits, float (pairs,)."""
        of_text, dtype = features["text_index"], self.bias.dtype
        # Each text fills its slots: from its embedding, and from the tokens that a slot seeks.
        text, tokens = features["text_vectors"].to(dtype), features["text_states"].to(dtype) * self.unit
        padding = ~features["text_mask"].unsqueeze(1)
        sought = (self.seek @ self.key(tokens).mT).masked_fill(padding, -torch.inf)
        slots = self.start(text * self.unit).unflatten(1, (self.slots, -1))
        slots = nn.functional.normalize(slots + sought.softmax(-1) @ self.value(tokens), dim=-1)[of_text]
        # Each slot looks at the patches of the picture.
        patches = features["image_states"].to(dtype)
        alike = slots @ patches.mT + slots @ self.position.mT
        attention = (self.sharpness.exp() * alike).softmax(-1)
        found = attention @ patches + attention @ self.position
        # What was asked for, times what was found, for the whole and for each slot.
        text, image = text[of_text], features["image_vectors"].to(dtype)
        cosine = (text * image).sum(-1, keepdim=True)
        products = torch.cat([text * image, (slots * found).flatten(1)], dim=-1) * self.unit**2 / 4
        vectors = torch.cat([text, image], dim=-1) * self.unit
        evidence = torch.cat([products, vectors, 4 * alike.amax(-1), 4 * cosine], dim=-1)
        correction = self.correction(evidence).squeeze(-1)
        return self.log_scale.exp() * cosine.squeeze(-1) + self.bias + correction
