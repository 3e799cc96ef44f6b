"""Validation on whole utterances, shared out over processes."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.models.modules import length_mask
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.quantization import CodebookStatistics

Function = TypeVar("Function", bound=Callable[..., Any])


def isolated_random_state(function: Function) -> Function:
    """Run ``function`` from a fixed seed and put the random states back: a run must not depend on its validations."""

    @functools.wraps(function)
    def isolated(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return function(*args, **kwargs)

    return cast(Function, isolated)


@dataclass
class Shown:
    """What a validation keeps to be drawn and played, on the CPU.

    Attributes:
        limit: utterances to keep of this process' batches, the first ones.
        mels: ``(utterance id, target, reconstruction)``, each mel (n_mels, frames).
        counts: uses of each code over all processes, (K,) or (N, K).
        latents: (n, D) of the first batch, before quantization.
        log_var: (n, 1) or (n, D) of the first batch; None for a quantizer whose variances the encoder does not give.
    """

    limit: int
    mels: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    counts: Tensor | None = None
    latents: Tensor | None = None
    log_var: Tensor | None = None


@torch.no_grad()
@isolated_random_state
def validate(
    model: SpeechModel,
    batches: Iterable[dict[str, Any]],
    *,
    temperature: float,
    device: torch.device,
    mel_spec: MelSpec,
    rank: int = 0,
    world_size: int = 1,
    shown: Shown | None = None,
) -> dict[str, float]:
    """Score a model in evaluation mode; always with the same draws, and without moving those of training.

    Args:
        model: not wrapped; left in the mode it was in.
        batches: of ``batch_utterances``.
        temperature: of the sampled pass; without effect on hard draws.
        device: where the model is.
        mel_spec: of the batches; gives the scale of ``db2``.
        rank: this process takes batch ``rank`` and every ``world_size``-th after it.
        world_size: processes that share the work; totals are summed over all.
        shown: takes what is to be drawn; None keeps nothing.

    Returns:
        ``loss`` and ``loss_sampled`` (codes drawn from the posterior) in nats per utterance; ``mse`` and, in dB²,
        ``db2``; ``perplexity`` and ``usage`` of hard choices, ``entropy`` of the posterior a unit.
    """
    was_training = model.training
    model.eval()
    statistics = CodebookStatistics(model.codebook_size, model.num_codebooks)
    names = ("loss", "loss_sampled", "examples", "squared_error", "values", "entropy", "units")
    totals = dict.fromkeys(names, 0.0)
    for batch in islice(batches, rank, None, world_size):
        mel, speaker, lengths = (batch[name].to(device) for name in ("mel", "speaker", "lengths"))
        out = model(mel, speaker, lengths)
        sampled = model(mel, speaker, lengths, temperature=temperature, sample=True)
        unit_lengths = model.num_units(lengths)
        statistics.update(out.quantization.indices, out.mask)
        examples, units = len(mel), int(unit_lengths.sum())
        values = units * model.frames_per_unit * mel.shape[1]
        for name, value in (
            ("loss", out.loss.item() * examples),
            ("loss_sampled", sampled.loss.item() * examples),
            ("examples", examples),
            ("squared_error", out.mse.item() * values),
            ("values", values),
            ("entropy", out.quantization.metrics["entropy"].item() * units),
            ("units", units),
        ):
            totals[name] += value
        if shown is not None and len(shown.mels) < shown.limit:
            for i in range(min(shown.limit - len(shown.mels), examples)):
                frames = model.frames_per_unit * int(unit_lengths[i])
                pair = (out.target[i, :, :frames].cpu(), out.reconstruction[i, :, :frames].cpu())
                shown.mels.append((batch["utterance_id"][i], *pair))
            if shown.latents is None:
                z, log_var = model.latents(mel, lengths)
                real = length_mask(unit_lengths, z.shape[1])
                shown.latents = z[real].cpu()
                if log_var is not None and log_var.shape[:2] == real.shape:
                    shown.log_var = log_var[real].cpu()
    if world_size > 1:
        summed = torch.tensor([totals[name] for name in names], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(summed)
        totals = dict(zip(names, summed.tolist(), strict=True))
        statistics.counts = statistics.counts.to(device)
        statistics.synchronize()
    if shown is not None:
        shown.counts = statistics.counts.cpu()
    model.train(was_training)
    mse = totals["squared_error"] / max(totals["values"], 1.0)
    return {
        "loss": totals["loss"] / max(totals["examples"], 1.0),
        "loss_sampled": totals["loss_sampled"] / max(totals["examples"], 1.0),
        "mse": mse,
        "db2": mel_spec.decibels_per_unit**2 * mse,
        "perplexity": statistics.perplexity,
        "usage": statistics.usage,
        "entropy": totals["entropy"] / max(totals["units"], 1.0),
    }
