"""What the library's losses lack: SigLIP's sigmoid loss, and right answers that are left out of the negatives."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn import functional


class SigmoidLoss(nn.Module):
    """SigLIP's loss (Zhai et al. 2023, https://arxiv.org/abs/2303.15343): each pair is a yes-no question.

    Every anchor is compared with every candidate by itself: with logits z = scale * cosine + bias, and y = 1
    for its own positive, else -1, the loss is -1 / batch * sum of log sigmoid(y * z) over all pairs. Scale (as
    its logarithm) and bias are learned along with the model, if they are given their own learning rate:
    `learning_rate_mapping={"logit_": 1e-2}`.

    Args:
        scale, bias: at the beginning; those of the paper suit a model that starts from nothing. None takes the
            model's own `logit_scale` and `logit_bias`, which are then trained in place and saved with it.

    Inputs: columns (anchor, positive) or (anchor, positive, negative_1, ..., negative_n), without labels. All
    other rows' candidates are negatives of an anchor, so use `BatchSamplers.NO_DUPLICATES`.

    Raises: ValueError: the model has no scale or bias of its own; a batch has less than two columns.
    """

    def __init__(self, model: SentenceTransformer, scale: float | None = 10.0, bias: float | None = -10.0) -> None:
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


class KnownPositivesRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` in which what is known to be right is no negative.

    In a batch, the positive of one anchor may answer another as well ("a striped mug" fits many mugs). The
    library's loss takes it for a negative; here it is left out of the anchor's candidates, and the anchor out
    of its own, in both directions. GISTEmbedLoss does the same with the guess of a guide model.

    Args:
        rows: the documents of each row of the dataset, in the order of its columns after the anchor.
        right: for each row, all documents that are known to be right for its anchor.
        options: of `MultipleNegativesRankingLoss`.

    Inputs: columns (anchor, positive[, negative_1, ...]) and `label`, the number of the row.
    """

    def __init__(
        self, model: SentenceTransformer, rows: Sequence[Sequence[str]], right: Sequence[Collection[str]],
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, similarity_fct=self._similarity, **options)
        self.rows, self.right, self.known = rows, right, torch.zeros(0)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        batch = labels.tolist()
        candidates = [self.rows[row][column] for column in range(len(embeddings) - 1) for row in batch]
        known = [[document in self.right[row] for document in candidates] for row in batch]
        self.known = torch.tensor(known, device=embeddings[0].device).fill_diagonal_(False)
        return super().compute_loss_from_embeddings(embeddings, labels)

    def _similarity(self, anchors: Tensor, documents: Tensor) -> Tensor:
        anchors, documents = (functional.normalize(e.float(), dim=-1) for e in (anchors, documents))
        return (anchors @ documents.T).masked_fill(self.known[:, : len(documents)], -torch.inf)

    def get_config_dict(self) -> dict[str, Any]:
        return super().get_config_dict() | {"similarity_fct": "cos_sim"}
