"""What the library's losses lack: SigLIP's sigmoid loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional


class SigmoidLoss(nn.Module):
    """SigLIP's loss (Zhai et al. 2023, https://arxiv.org/abs/2303.15343): each pair is a yes-no question.

    A softmax asks which candidate of the batch belongs to an anchor. Here every anchor is compared with every
    candidate by itself: with logits z = scale * cosine + bias, and y = 1 for its own positive, else -1,

        loss = -1 / batch * sum of log sigmoid(y * z) over all pairs.

    Scale (as its logarithm, so that it stays positive) and bias are learned along with the model. The
    trainer's learning rate hardly moves them: give them theirs, `learning_rate_mapping={"logit_": 1e-2}`.

    Args:
        model: gives texts and pictures embeddings of one size; they are normalised here.
        scale: at the beginning; the paper's t = 10 and bias suit a model that starts from nothing. None takes
            the model's own `logit_scale`, which is then trained in place and saved with the model: the choice
            for a pretrained SigLIP, whose cosines were made for it.
        bias: likewise, `logit_bias`. It is far below zero because nearly all pairs are negatives.

    Inputs: columns (anchor, positive) or (anchor, positive, negative_1, ..., negative_n), without labels. The
    positives of other rows, and the negatives of all rows, are negatives of an anchor; so use
    `BatchSamplers.NO_DUPLICATES`, or a picture can be a positive and a negative of the same text.

    Raises:
        ValueError: the model has no scale or bias of its own; a batch has less than two columns.
    """

    def __init__(
        self, model: SentenceTransformer, scale: float | None = 10.0, bias: float | None = -10.0
    ) -> None:
        super().__init__()
        self.model = model
        given = {"logit_scale": None if scale is None else math.log(scale), "logit_bias": bias}
        for name, value in given.items():
            own = getattr(model.transformers_model, name, None)
            if value is None and not isinstance(own, nn.Parameter):
                kind = type(model.transformers_model).__name__
                raise ValueError(f"{kind} has no {name} of its own; give a number instead")
            setattr(self, name, own if value is None else nn.Parameter(torch.tensor(float(value))))

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of anchors, positives and, where there are more, negatives: each (batch, dimension)."""
        if len(embeddings) < 2:
            raise ValueError(f"expected at least two columns, anchor and positive, but got {len(embeddings)}")
        anchors, candidates = embeddings[0], torch.cat(embeddings[1:])
        with torch.autocast(anchors.device.type, enabled=False):  # half precision is too coarse for the sum
            anchors, candidates = (functional.normalize(e.float(), dim=-1) for e in (anchors, candidates))
            logits = anchors @ candidates.T * self.logit_scale.float().exp() + self.logit_bias.float()
            signs = torch.full_like(logits, -1.0).fill_diagonal_(1.0)  # positives come first
            return -functional.logsigmoid(signs * logits).sum() / len(anchors)

    def get_config_dict(self) -> dict[str, Any]:
        return {"scale": self.logit_scale.exp().item(), "bias": self.logit_bias.item()}
