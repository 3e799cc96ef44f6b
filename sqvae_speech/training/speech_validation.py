"""Validation on whole utterances, shared out over processes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.f0_tracks import F0Tracks
from sqvae_speech.models.modules import length_mask
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.quantization import CodebookStatistics
from sqvae_speech.training.autoencoder import Shown
from sqvae_speech.training.validation import isolated_random_state, over_processes


@dataclass
class ShownUtterances(Shown):
    """See :class:`sqvae_speech.training.autoencoder.Shown`.

    Attributes:
        mels: ``(utterance id, target, reconstruction)``, each mel (n_mels, frames).
    """

    mels: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)


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
    shown: ShownUtterances | None = None,
    f0: F0Tracks | None = None,
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
        f0: of the utterances, for a model that can be told it.

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
        pitch: dict[str, Tensor] = {}
        if f0 is not None:
            ids = batch["utterance_id"]
            pitch["f0"] = torch.from_numpy(f0.cut(ids, [0] * len(ids), mel.shape[-1])).to(device)
        out = model(mel, speaker, lengths, **pitch)
        sampled = model(mel, speaker, lengths, **pitch, temperature=temperature, sample=True)
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
    totals = over_processes(totals, statistics, world_size, device)
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
