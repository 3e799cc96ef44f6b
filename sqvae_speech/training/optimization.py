"""Optimiser, and what a run starts from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sqvae_speech.config import flatten, to_dict
from sqvae_speech.errors import UserError
from sqvae_speech.training.config import TrainingConfig


def build_optimizer(
    model: nn.Module, config: TrainingConfig, multipliers: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Adam over the trainable parameters, with ``weight_decay`` AdamW, which spares vectors (norms and biases).

    Args:
        model: what to train.
        config: with the learning rate.
        multipliers: relative learning rates by the last part of a parameter's name; of others it is 1.
    """
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            leaf = name.rpartition(".")[2]
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((leaf if leaf in multipliers else "rest", decay), []).append(parameter)
    ranks = {name: rank for rank, name in enumerate(["rest", *multipliers])}
    kind = torch.optim.AdamW if config.weight_decay else torch.optim.Adam
    return kind(
        [
            {
                "params": groups[name, decay],
                "lr": config.learning_rate * multipliers.get(name, 1.0),
                "weight_decay": decay,
                "name": name,
            }
            for name, decay in sorted(groups, key=lambda group: (ranks[group[0]], group[1]))
        ],
        fused=True,
    )


@torch.no_grad()
def start_codebook(model: nn.Module, latents: Iterator[Tensor], generator: torch.Generator) -> None:
    """Set the codes of ``model.quantizer`` to latents of training batches, drawn without replacement.

    An untrained encoder's latents lie close together, far from codes drawn from N(0, 1), of which a nearest-neighbour
    search then picks a few; starting among the latents, every code has some.

    Args:
        model: in training mode (batch normalisation by the batch); its running statistics are left alone.
        latents: (n, D) of it, batch after batch; as many are taken as needed, on all processes the same number:
            batch normalisation is over all of them. (Each has its own codes then; the first one's are trained.)
        generator: of the draw, on the CPU.
    """
    quantizer: Any = model.quantizer
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # later codebooks start among what earlier ones leave over, which of a latent that became a code is nothing
    wanted = quantizer.codebook_size * (4 if quantizer.num_codebooks > 1 else 1)
    found: list[Tensor] = []
    while not _all_have(sum(map(len, found)) >= wanted):
        found.append(next(latents).cpu())
    for name, buffer in model.named_buffers():
        buffer.copy_(saved[name])
    quantizer.start_from(torch.cat(found), generator)


def _all_have(enough: bool) -> bool:
    """Whether it is so on every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return enough
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(enough), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


def require_same_model(checkpoint: Path, theirs: Any, ours: Any) -> None:
    """Refuse to go on with a checkpoint of another model.

    Args:
        checkpoint: for the message.
        theirs: its model's configuration, a dataclass.
        ours: that of this run.

    Raises:
        UserError: they differ; it lists in what.
    """
    if theirs == ours:
        return
    there, here = flatten(to_dict(theirs)), flatten(to_dict(ours))
    lines = [f"  model.{key}: {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]
    raise UserError(
        f"checkpoint {checkpoint} is of another model:\n"
        + "\n".join(lines)
        + "\nresume with the same model settings, or start in another folder"
    )
