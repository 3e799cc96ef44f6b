"""A codebook report as files: JSON, plots, and what the codes sound like."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from sqvae_speech.audio.vocoder import GriffinLim, Vocoder
from sqvae_speech.audio.wav import write_wav
from sqvae_speech.data.files import read_json_lines, write_text
from sqvae_speech.evaluation.codebook_report import CodebookReport
from sqvae_speech.evaluation.sources import ModelSource
from sqvae_speech.plots import plot_bars, plot_code_histogram, plot_curves, plot_map, plot_mels

_TIME_METRICS = ("usage", "perplexity", "entropy", "variance", "relative_variance", "kappa")


def usage_over_time(exp_dir: str | os.PathLike) -> dict[str, tuple[list[int], list[float]]]:
    """How a run's codebook came to be used: ``split/metric`` -> (steps, values), from its ``metrics.jsonl``.

    Empty where there is no such file, as beside an exported model.
    """
    path = Path(exp_dir) / "metrics.jsonl"
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_json_lines(path) if path.is_file() else []:
        for metric in _TIME_METRICS:
            if metric in row and "split" in row and "step" in row:
                steps, values = curves.setdefault(f"{row['split']}/{metric}", ([], []))
                steps.append(row["step"])
                values.append(row[metric])
    return curves


def code_wavs(
    report: CodebookReport, codes: Iterable[int], vocoder: Vocoder, repeats: int = 3
) -> dict[int, tuple[np.ndarray, int]]:
    """What codes sound like: their mean mels, in context, vocoded.

    Args:
        report: of the model.
        codes: which; those that are never used are left out.
        vocoder: of the model's MelSpec.
        repeats: how often each is heard; a single one of 0.2 s says little.

    Returns:
        code -> (samples float32, sample rate).
    """
    sounds = {}
    for code in codes:
        if report.counts[code]:
            mel = torch.from_numpy(np.tile(report.mean_mels[code], (1, repeats)))
            sounds[int(code)] = (vocoder.vocode(mel).numpy(), vocoder.mel_spec.sample_rate)
    return sounds


def write_codebook_report(
    folder: str | os.PathLike,
    report: CodebookReport,
    source: ModelSource,
    *,
    shards: Sequence[str | os.PathLike] = (),
    exp_dir: str | os.PathLike | None = None,
    most_used: int = 8,
) -> list[Path]:
    """Write ``codebook.json``, plots, and mean mels and sounds of the codes used most; returns the files.

    Args:
        folder: to write to.
        report: of the codebook.
        source: the model.
        shards: that it was looked at on, to be written down.
        exp_dir: of the run, for the use of the codes over time.
        most_used: codes to draw and to make sound.
    """
    folder = Path(folder)
    values = {"source": source.description, "shards": [str(one) for one in shards], **report.to_dict()}
    write_text(folder / "codebook.json", json.dumps(values, ensure_ascii=False) + "\n")
    files = [folder / "codebook.json", plot_code_histogram(folder / "frequency.png", report.counts)]
    used = report.counts > 0
    labels = [report.dominant_phone(code) or "" for code in range(len(report.counts))]
    files.append(
        plot_map(
            folder / "map.png",
            report.positions[used],
            labels=[label for label, one in zip(labels, used, strict=True) if one],
            sizes=report.counts[used],
            others=report.positions[~used],
            title=f"codes by their most frequent phone, dead ones as crosses; {report.explained:.0%} of the variance",
        )
    )
    edges = np.linspace(0.0, np.log(len(report.counts)), len(report.entropy_histogram) + 1)
    files.append(
        plot_bars(
            folder / "posterior_entropy.png",
            edges,
            report.entropy_histogram,
            xlabel="entropy of q(k | z), nats",
            ylabel="units",
            title=", ".join(["posterior entropy", *(f"{name} {value:.3g}" for name, value in report.scale.items())]),
        )
    )
    if exp_dir is not None and (curves := usage_over_time(exp_dir)):
        files.append(plot_curves(folder / "over_time.png", curves, panels=True))
    chosen = [code for code in report.by_frequency[:most_used].tolist() if report.counts[code]]
    mels = {f"code {code} {labels[code]}, {report.counts[code]} uses": report.mean_mels[code] for code in chosen}
    files.append(plot_mels(folder / "mean_mels.png", mels, source.bundle.mel_spec))
    for code, (wav, sample_rate) in code_wavs(report, chosen, GriffinLim(source.bundle.mel_spec)).items():
        path = folder / "wav" / f"code-{code}.wav"
        write_wav(path, wav, sample_rate)
        files.append(path)
    return files
