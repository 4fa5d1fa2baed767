"""The part of the reranker that is trained: a small network over tower states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Fusion(nn.Module):
    """Every token of the text looks at the patches of the picture and says how well what it finds there fits.

    In each of several heads a token has two vectors: with one it decides which patches to look at, with the other
    it judges what they show. The judgements, weighted by how much a token matters, are the reranker's own score.
    `trust` times the retriever's cosine is added; it is 0 while the network is trained. A network that starts
    from the retriever's score finds everything easy explained, and never learns to look.

    Args:
        text_dim, image_dim: of the towers' states. patches: of a picture. heads, width: of the looking, the
            width being that of all heads together.
    """

    def __init__(self, text_dim: int, image_dim: int, patches: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        # Red belongs to the mug, blue to the boot: the tokens read each other before they look.
        self.reading = nn.TransformerEncoderLayer(
            text_dim, max(1, text_dim // 64), 2 * text_dim, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm_text, self.norm_image = nn.LayerNorm(text_dim), nn.LayerNorm(image_dim)
        self.position = nn.Parameter(0.02 * torch.randn(patches, image_dim))
        self.seeks, self.wants = nn.Linear(text_dim, width), nn.Linear(text_dim, width)
        self.key, self.shows = nn.Linear(image_dim, width), nn.Linear(image_dim, width)
        self.matters = nn.Linear(text_dim, heads)
        self.log_sharpness = nn.Parameter(torch.tensor(10.0).log())
        self.log_scale = nn.Parameter(torch.tensor(40.0).log())
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("trust", torch.zeros(()))

    def looks(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of every pair, head and token: the shares of the patches (pairs, heads, tokens, patches), how well what
        is found there fits (pairs, heads, tokens) from -1 to 1, and how much it matters (the same, sum 1)."""
        mask, of_text = features["text_mask"], features["text_index"]
        tokens = self.norm_text(features["text_states"].to(self.bias.dtype))
        tokens = self.reading(tokens, src_key_padding_mask=~mask)
        patches = self.norm_image(features["image_states"].to(self.bias.dtype)) + self.position
        seeks, wants = self._by_head(self.seeks(tokens)), self._by_head(self.wants(tokens))  # once a text
        key, shows = self._by_head(self.key(patches)), self._by_head(self.shows(patches))
        shares = (self.log_sharpness.exp() * seeks[of_text] @ key.mT).softmax(-1)
        fits = (shares * (wants[of_text] @ shows.mT)).sum(-1)
        matters = functional.softplus(self.matters(tokens).float()) * mask.unsqueeze(-1)
        matters = matters / matters.sum((1, 2), keepdim=True)
        return shares, fits, matters.mT[of_text]

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features of `FusionReranker.preprocess` -> logits, float (pairs,)."""
        _, fits, matters = self.looks(features)
        cosine = (features["text_vectors"][features["text_index"]].float() * features["image_vectors"]).sum(-1)
        return self.log_scale.exp() * (fits.float() * matters).sum((1, 2)) + self.trust * cosine + self.bias

    def _by_head(self, vectors: Tensor) -> Tensor:
        """[n, length, width] -> unit vectors [n, heads, length, width / heads]."""
        return functional.normalize(vectors.unflatten(-1, (self.heads, -1)), dim=-1).transpose(1, 2)
