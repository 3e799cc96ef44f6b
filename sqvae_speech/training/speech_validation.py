"""Validation on whole utterances, shared out over processes."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.plots import plot_code_histogram, plot_mels
from sqvae_speech.quantization import CodebookStatistics
from sqvae_speech.training.validation import isolated_random_state, over_processes


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
    plots_dir: Path | None = None,
    num_plots: int = 0,
) -> dict[str, float]:
    """Score a model in evaluation mode; always with the same draws, and without moving those of training.

    Args:
        model: not wrapped; left in the mode it was in.
        batches: of ``batch_utterances``.
        temperature: of the sampled pass; without effect on hard draws.
        device: where the model is.
        mel_spec: of the batches; gives the scale of ``db2`` and the time axis of plots.
        rank: this process takes batch ``rank`` and every ``world_size``-th after it.
        world_size: processes that share the work; totals are summed over all.
        plots_dir: where mels and the code histogram are drawn; None draws nothing.
        num_plots: how many utterances are drawn, the first ones.

    Returns:
        ``loss`` and ``loss_sampled`` (codes drawn from the posterior) in nats per utterance; ``mse`` and, in dB²,
        ``db2``; ``perplexity`` and ``usage`` of hard choices, ``entropy`` of the posterior a unit.
    """
    was_training = model.training
    model.eval()
    statistics = CodebookStatistics(model.codebook_size, model.num_codebooks)
    names = ("loss", "loss_sampled", "examples", "squared_error", "values", "entropy", "units")
    totals = dict.fromkeys(names, 0.0)
    drawn = 0
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
        if plots_dir is not None:
            for i in range(min(num_plots - drawn, examples)):
                frames = model.frames_per_unit * int(unit_lengths[i])
                pair = {
                    f"{batch['utterance_id'][i]}: target": out.target[i, :, :frames].cpu(),
                    "reconstruction": out.reconstruction[i, :, :frames].cpu(),
                }
                plot_mels(plots_dir / f"mel-{batch['utterance_id'][i]}.png", pair, mel_spec)
                drawn += 1
    totals = over_processes(totals, statistics, world_size, device)
    if plots_dir is not None:
        plot_code_histogram(plots_dir / "codes.png", statistics.counts.cpu())
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
