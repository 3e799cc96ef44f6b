"""Adversarial training: discriminators with their own optimiser beside the model's, whatever the model."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sqvae_speech.models.discriminators import Judgement
from sqvae_speech.training.adam import Adam
from sqvae_speech.training.checkpoint import snapshot


class AdversarialLoss(NamedTuple):
    """For the model.

    Attributes:
        adversarial: hinge loss: how far the discriminators are from taking the made for real.
        features: mean absolute difference of hidden features, relative to the size of the real ones' (feature
            matching; Larsen et al., arXiv 1512.09300).
    """

    adversarial: Tensor
    features: Tensor


class Adversary:
    """Discriminators and what trains them, by the hinge loss (Lim and Ye, arXiv 1705.02894).

    Args:
        discriminators: on their device; of ``(wav) -> list of Judgement``. They begin alike on all processes.
        learning_rate: of their Adam.
        world_size: processes, over which gradients are averaged.
    """

    def __init__(self, discriminators: nn.Module, learning_rate: float, world_size: int = 1):
        self.discriminators = discriminators
        self._world_size = world_size
        self._optimizer = Adam(discriminators.parameters(), lr=learning_rate)

    def step(self, made: Tensor, real: Tensor) -> Tensor:
        """One step of the discriminators; returns their loss, detached. No gradient reaches ``made``."""
        losses = []
        for ours, theirs in zip(self._judge(made.detach()), self._judge(real), strict=True):
            losses.append((1.0 + ours.score).relu().mean() + (1.0 - theirs.score).relu().mean())
        loss = torch.stack(losses).mean()
        self._optimizer.zero_grad()
        loss.backward()
        if self._world_size > 1:
            self._average_gradients()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def loss(self, made: Tensor, real: Tensor) -> AdversarialLoss:
        """What the model is to lower; the discriminators get no gradient from it."""
        self.discriminators.requires_grad_(False)
        try:
            with torch.no_grad():
                theirs = self._judge(real)
            ours = self._judge(made)
        finally:
            self.discriminators.requires_grad_(True)
        adversarial = torch.stack([(1.0 - one.score).relu().mean() for one in ours]).mean()
        features = [
            ((a - b).abs().flatten(1).mean(dim=1) / b.abs().flatten(1).mean(dim=1).clamp(min=1e-6)).mean()
            for one, other in zip(ours, theirs, strict=True)
            for a, b in zip(one.features, other.features, strict=True)
        ]
        return AdversarialLoss(adversarial, torch.stack(features).mean())

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, on the CPU."""
        return {
            "discriminators": snapshot(self.discriminators.state_dict()),
            "optimizer": snapshot(self._optimizer.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.discriminators.load_state_dict(state["discriminators"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _judge(self, wav: Tensor) -> list[Judgement]:
        # spectra and the hinge in float32, whatever autocast says
        with torch.autocast(wav.device.type, enabled=False):
            return self.discriminators(wav)

    def _average_gradients(self) -> None:
        gradients = [p.grad for p in self.discriminators.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self._world_size
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
