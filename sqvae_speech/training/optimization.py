"""Optimiser, schedules, and the codebook's start."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from sqvae_speech.models.modules import length_mask
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.training.config import TrainingConfig


def temperature_at(config: TrainingConfig, step: int) -> float:
    """Gumbel-softmax temperature: ``init · exp(-decay · step)``."""
    return config.temperature_init * math.exp(-config.temperature_decay * step)


def build_optimizer(model: SpeechModel, config: TrainingConfig) -> torch.optim.Adam:
    """Adam over the trainable parameters, the codebook and the quantizer's scalar at their own learning rates."""
    groups: dict[str, list[nn.Parameter]] = {"rest": [], "codebook": [], "log_scale": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            leaf = name.rpartition(".")[2]
            groups[leaf if leaf in groups else "rest"].append(parameter)
    multipliers = {
        "rest": 1.0,
        "codebook": config.codebook_lr_multiplier,
        "log_scale": config.log_scale_lr_multiplier,
    }
    return torch.optim.Adam(
        [
            {"params": parameters, "lr": config.learning_rate * multipliers[name], "name": name}
            for name, parameters in groups.items()
            if parameters
        ],
        fused=True,
    )


def build_scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """Multiply the learning rate by ``gamma`` at each milestone."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(config.milestones), config.gamma)


@torch.no_grad()
def start_codebook_from_data(
    model: SpeechModel,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
    generator: torch.Generator,
) -> None:
    """Set the codes to latents of training batches, drawn without replacement.

    An untrained encoder's latents lie close together, far from codes drawn from N(0, 1), of which a nearest-neighbour
    search then picks a few; starting among the latents, every code has some.

    Args:
        model: in training mode (batch normalisation by the batch); its running statistics are left alone.
        batches: mels (B, n_mels, T) and lengths (B,), or None when all frames are real; as many as it takes.
        generator: of the draw, on the CPU.
    """
    quantizer = model.quantizer
    latents: list[torch.Tensor] = []
    iterator = iter(batches)
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # later codebooks start among what earlier ones leave over, which of a latent that became a code is nothing
    wanted = quantizer.codebook_size * (4 if quantizer.num_codebooks > 1 else 1)
    while sum(map(len, latents)) < wanted:
        mel, lengths = next(iterator)
        z = model.latents(mel, lengths)[0]
        if lengths is None:
            z = z.reshape(-1, z.shape[-1])
        else:
            z = z[length_mask(model.num_units(lengths), z.shape[1])]
        latents.append(z.cpu())
    for name, buffer in model.named_buffers():
        buffer.copy_(saved[name])
    quantizer.start_from(torch.cat(latents), generator)
