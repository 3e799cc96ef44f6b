"""Reconstruction losses of label maps, with the contract of :mod:`sqvae_speech.models.likelihoods`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.models.bessel import vmf_log_normalizer
from sqvae_speech.models.likelihoods import ReconstructionLoss, Totals, totals
from sqvae_speech.quantization.functional import at_least_float32


class LabelLikelihood(nn.Module, ABC):
    """Of classes, given scores of each at every pixel.

    Args:
        num_classes: C, at least 2.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"label maps have at least 2 classes, got {num_classes}")
        self.num_classes = num_classes

    @property
    def channels(self) -> int:
        """F, of the decoder's output: one or more for each class."""
        return self.num_classes

    def forward(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> ReconstructionLoss:
        """Score a batch.

        Args:
            output: (B, F, ...) float.
            target: (B, ...) int64 classes.
            mask: (B, ...) bool, True = real.
        """
        output = at_least_float32(output)
        with torch.no_grad():
            right = self.predict(output) == target
        values: Tensor | int = right.numel()
        if mask is not None:
            output = output.masked_fill(~mask[:, None], 1.0)  # padding may hold anything, also NaN
            target, right = target.masked_fill(~mask, 0), right & mask
            values = mask.sum()
        total = totals(right.sum(), values, len(output), self.training)
        loss = self._loss(output, target, mask, total)
        return ReconstructionLoss(loss, {"accuracy": total.mean.float()}, total.share.to(loss.dtype))

    def predict(self, output: Tensor) -> Tensor:
        """The most probable classes: (B, F, ...) -> (B, ...) int64."""
        return output[:, : self.num_classes].argmax(dim=1)

    @abstractmethod
    def _loss(self, output: Tensor, target: Tensor, mask: Tensor | None, total: Totals) -> Tensor: ...


def _sum(values: Tensor, mask: Tensor | None) -> Tensor:
    return (values if mask is None else values.masked_fill(~mask, 0.0)).sum()


class CategoricalLikelihood(LabelLikelihood):
    """Softmax and cross-entropy: the naive-categorical baseline of the paper.

    It has no parameter by which its noise could shrink, so that nothing anneals the quantizer.
    """

    def _loss(self, output: Tensor, target: Tensor, mask: Tensor | None, total: Totals) -> Tensor:
        return total.per_example(_sum(F.cross_entropy(output, target, reduction="none"), mask))


class VmfLikelihood(LabelLikelihood):
    """Von Mises-Fisher on the unit sphere of R^F: ``-κ Σ_d v_dᵀ f_d - D log C_F(κ)`` (arXiv 2205.07547, section 3.3).

    f is the decoder's output at a pixel, normalised, and class c the c-th axis. F is C rounded up to an even number,
    as in the published code. The trainable κ grows as reconstruction improves, as 1/σ² of a Gaussian does. Bessel
    functions are computed in float64.

    Args:
        num_classes: C.
        init_kappa: where κ starts; 100 in the published code.
    """

    def __init__(self, num_classes: int, init_kappa: float = 100.0):
        super().__init__(num_classes)
        if not init_kappa > 0:
            raise ValueError(f"the concentration of the likelihood must be positive, got {init_kappa}")
        self.log_kappa = nn.Parameter(torch.tensor(math.log(init_kappa)))

    @property
    def channels(self) -> int:
        return self.num_classes + self.num_classes % 2

    def _loss(self, output: Tensor, target: Tensor, mask: Tensor | None, total: Totals) -> Tensor:
        cosine = F.normalize(output, dim=1).gather(1, target[:, None])[:, 0]
        distance = total.per_example(_sum(1.0 - cosine, mask))
        kappa = self.log_kappa.double().exp()
        loss = kappa * distance - total.values_per_example * vmf_log_normalizer(self.channels, kappa)
        return loss.to(output.dtype)


LABEL_LIKELIHOODS: dict[str, Callable[[int, float], LabelLikelihood]] = {
    "vmf": VmfLikelihood,
    "categorical": lambda num_classes, init_kappa: CategoricalLikelihood(num_classes),
}


def build_label_likelihood(name: str, num_classes: int, init_kappa: float) -> LabelLikelihood:
    """``vmf`` or ``categorical``.

    Raises:
        ValueError: another name, or a setting out of range.
    """
    if name not in LABEL_LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LABEL_LIKELIHOODS)} for label maps, got {name!r}")
    return LABEL_LIKELIHOODS[name](num_classes, init_kappa)
