"""What makes units say what was said and not who said it: in training alone, inference is unchanged."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HIDDEN = 128  # width of the adversary


@dataclass(frozen=True)
class InvarianceConfig:
    """Each of these is off at 0, which is the published model.

    Attributes:
        warp: the encoder hears voices of other vocal tracts: largest bend of the frequency axis, see
            :class:`sqvae_speech.models.perturbation.SpectralPerturbation`. The decoder learns to give the voice as it
            was.
        equalizer: and of another spectral balance: standard deviation of a smooth curve, in units of the log-mel.
        consistency: weight of the divergence between the posteriors of two such versions, see
            :func:`posterior_divergence`.
        adversary: weight of a speaker classifier's gradient, reversed, see :class:`SpeakerAdversary`.
        noise: and in rooms that are louder between the words: level of the loudest noise in the range of a crop. The
            decoder learns the room with the voice, and so does not take it from the source.
    """

    warp: float = 0.0
    equalizer: float = 0.0
    consistency: float = 0.0
    adversary: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("consistency", "adversary"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"model.invariance.{name} must be at least 0, got {getattr(self, name)}")
        if self.consistency and not (self.warp or self.equalizer or self.noise):
            raise ValueError(
                f"model.invariance.consistency is {self.consistency}, but warp, equalizer and noise are 0: there are "
                "no two versions to compare; set one of them, such as warp 0.1"
            )


def posterior_divergence(log_p: Tensor, log_q: Tensor, mask: Tensor | None = None) -> Tensor:
    """``KL(p ‖ q) + KL(q ‖ p)``, summed over positions, in nats per example: a scalar.

    Two versions of an utterance shall be the same units: the swapped prediction of Spin (Chang et al., arXiv
    2305.11072), on the posterior that a stochastic quantizer has anyway. That the decoder must tell phones apart
    keeps the posteriors from collapsing.

    Args:
        log_p: (B, U, K) log-probabilities.
        log_q: (B, U, K).
        mask: (B, U) bool, True = real.
    """
    divergence = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1)
    if mask is not None:
        divergence = divergence.masked_fill(~mask, 0.0)
    return divergence.sum() / len(divergence)


class SpeakerAdversary(nn.Module):
    """A classifier of speakers on latents, whose gradient reaches the encoder reversed.

    The classifier learns to tell who speaks, the encoder to leave it nothing to tell by (Ganin & Lempitsky, ICML
    2015, arXiv 1409.7495). It sees the mean over an example of a hidden layer.

    Args:
        dim: D of the latents.
        num_speakers: to tell apart.
        weight: of the reversed gradient, λ.

    Raises:
        ValueError: fewer than two speakers.
    """

    def __init__(self, dim: int, num_speakers: int, weight: float):
        super().__init__()
        if num_speakers < 2:
            raise ValueError(f"an adversary needs at least two speakers to tell apart, got {num_speakers}")
        self.weight = weight
        self.hidden = nn.Sequential(nn.Linear(dim, _HIDDEN), nn.ReLU())
        self.output = nn.Linear(_HIDDEN, num_speakers)

    def forward(self, latents: Tensor, speaker: Tensor, mask: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats times units, per example: a scalar.

        A sum over units, as all other parts of the loss are.

        Args:
            latents: (B, U, D).
            speaker: (B,) int64.
            mask: (B, U) bool, True = real.
        """
        hidden = self.hidden(reverse_gradient(latents, self.weight))
        if mask is None:
            mean, units = hidden.mean(dim=1), hidden.new_full((len(hidden),), hidden.shape[1])
        else:
            units = mask.sum(dim=1).to(hidden.dtype)
            mean = hidden.masked_fill(~mask[..., None], 0.0).sum(dim=1) / units.clamp(min=1)[:, None]
        entropy = F.cross_entropy(self.output(mean), speaker, reduction="none")
        return (units * entropy).sum() / len(units)


def reverse_gradient(x: Tensor, weight: float) -> Tensor:
    """``x`` itself; its gradient is multiplied by ``-weight``."""
    return _Reversal.apply(x, weight)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None
