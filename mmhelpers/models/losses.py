"""What the library's losses lack: SigLIP's sigmoid loss, and an answer to a GPU that is too small."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

Result = TypeVar("Result")
# What torch says on GPUs, when cuBLAS gets no workspace, and on a CPU (accelerate's own list lacks some).
SHORTAGES = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def fitting(train: Callable[[int], Result], batch_size: int, smallest: int = 4) -> Result:
    """Train with the largest mini-batch that fits into memory: the whole batch, else a half, a quarter, ...

    Args:
        train: called with the rows that are to be embedded at a time, and again with fewer each time memory
            runs out. It loads the model that it trains, so that each try starts from the same weights, and
            uses gradient caching (`CachedMultipleNegativesRankingLoss`) below the batch size: then the result
            is the same in any case.
        batch_size: rows of a training batch.
        smallest: rows below which another try is pointless.

    Returns:
        What `train` returns.

    Raises:
        MemoryError: even `smallest` rows were too many. Errors of other kinds pass.
    """
    rows = batch_size
    while True:
        clear_device_cache(garbage_collection=True)  # a trainer is full of cycles, and holds its model
        try:
            return train(rows)
        except RuntimeError as error:
            if not any(words in str(error) for words in SHORTAGES):
                raise
            if rows // 2 < smallest:
                raise MemoryError(
                    f"Out of memory even with {rows} rows at a time. Restart the kernel, close what else "
                    "uses the GPU; if that does not help, choose a smaller base model (MM_BASE_MODEL)."
                ) from error
        # Only here, where the error is gone, is the memory free that its traceback held.
        rows //= 2
        print(
            f"Out of memory: starting again with gradient caching, {rows} rows at a time. "
            f"The batch stays at {batch_size} and so does the result; it takes longer."
        )


class SigmoidLoss(nn.Module):
    """SigLIP's loss (Zhai et al. 2023, https://arxiv.org/abs/2303.15343): each pair is a yes-no question.

    A softmax asks which candidate of the batch belongs to an anchor. Here every anchor is compared with every
    candidate by itself: with logits z = scale * cosine + bias, and y = 1 for its own positive, else -1,

        loss = -1 / batch * sum of log sigmoid(y * z) over all pairs.

    Scale (as its logarithm t', so that it stays positive) and bias are learned along with the model. The
    trainer's learning rate, fit for pretrained weights, hardly moves them: give them their own with
    `learning_rate_mapping={"logit_": 1e-2}`.

    Args:
        model: gives texts and pictures embeddings of one size; they are normalised here.
        scale: at the beginning; the paper's t = 10 and bias suit a model that starts from nothing. None takes
            the model's own `logit_scale`, which is then trained in place and saved with the model: the choice
            for a pretrained SigLIP, whose cosines were made for it.
        bias: likewise, `logit_bias`. It is far below zero because nearly all pairs are negatives.

    Inputs:
        Columns (anchor, positive) or (anchor, positive, negative_1, ..., negative_n), without labels. The
        positives of other rows, and the negatives of all rows, are negatives of an anchor. So a picture that
        stands in the batch twice is a positive and a negative of the same texts: use
        `BatchSamplers.NO_DUPLICATES`. No softmax couples the pairs, so larger batches matter less than for
        `MultipleNegativesRankingLoss`.

    Raises:
        ValueError: the model has no scale or bias of its own; a batch has less than two columns.
    """

    def __init__(
        self, model: SentenceTransformer, scale: float | None = 10.0, bias: float | None = -10.0
    ) -> None:
        super().__init__()
        self.model = model
        self.logit_scale = self._own("logit_scale") if scale is None else _parameter(math.log(scale))
        self.logit_bias = self._own("logit_bias") if bias is None else _parameter(bias)

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

    @property
    def temperature(self) -> float:
        return 1.0 / self.logit_scale.exp().item()

    @property
    def citation(self) -> str:
        return """
@inproceedings{zhai2023sigmoid,
    title={Sigmoid Loss for Language Image Pre-Training},
    author={Xiaohua Zhai and Basil Mustafa and Alexander Kolesnikov and Lucas Beyer},
    booktitle={Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
    year={2023},
    eprint={2303.15343},
    archivePrefix={arXiv},
    primaryClass={cs.CV}
}
"""

    def _own(self, name: str) -> nn.Parameter:
        """The model's own learned scale or bias; sharing the parameter keeps what is saved up to date."""
        encoder = self.model.transformers_model
        found = getattr(encoder, name, None)
        if not isinstance(found, nn.Parameter):
            raise ValueError(f"{type(encoder).__name__} has no {name} of its own; give a number instead")
        return found


def _parameter(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(float(value)))
