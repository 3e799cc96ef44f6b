"""Scores as JSON for programs and as a Markdown table for people."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqvae_speech.data.files import write_text
from sqvae_speech.evaluation.scores import SplitScores

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained import SpeechBundle


def report(bundle: "SpeechBundle", model: str, scores: Sequence[SplitScores]) -> dict[str, Any]:
    """All scores of a model with what identifies it, ready for JSON."""
    return {
        "model": model,
        "step": bundle.step,
        "checkpoint": bundle.fingerprint,
        "mel_spec": bundle.mel_spec.name,
        "codebook_size": bundle.model.codebook_size,
        "speakers": len(bundle.speakers),
        "splits": [split.to_dict() for split in scores],
    }


def markdown(values: dict[str, Any]) -> str:
    """The table of a :func:`report`: a row a split, and one more for each target speaker."""
    header = (
        "| split | decoded as | utterances | error (dB²) | perplexity | of mean posterior | usage | bit/s "
        "| units/s | unit (ms) |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    )
    lines = []
    for split in values["splits"]:
        rows = [("own speaker", split["error_db2"])] if split["error_db2"] else []
        rows += list(split["target_error_db2"].items())
        units, codebook = split["units"], split["codebook"]
        for voice, error in rows:
            cells = [
                split["split"],
                voice,
                f"{split['utterances']}",
                f"{error['pooled']:.2f}",
                f"{codebook['perplexity']:.1f}",
                number_or_not_available(codebook["perplexity_posterior"], 1),
                f"{codebook['used']}/{codebook['codebook_size']}",
                number_or_not_available(units["bitrate"], 1),
                f"{units['units'] / units['seconds']:.1f}",
                number_or_not_available(units["durations"]["mean_seconds"] * 1000, 1),
            ]
            lines.append("| " + " | ".join(cells) + " |\n")
    return (
        f"# Scores of {values['model']}\n\n"
        f"Step {values['step']}, checkpoint {values['checkpoint'][:12]}, features {values['mel_spec']}, "
        f"codebook of {values['codebook_size']}, {values['speakers']} speakers.\n\n{header}{''.join(lines)}\n"
        "Error: mean squared error of the log-mel over all real frames of the split (deterministic codes). "
        "Perplexity: of the codes chosen, and of the mean posterior. bit/s: units a second times their entropy "
        "(ZeroSpeech 2019). unit: how long a unit lasts before another follows.\n"
    )


def write_report(path: str | os.PathLike, values: Mapping[str, Any], table: str) -> list[Path]:
    """Write ``path`` (JSON of the values) and the same name with ``.md`` (the table); returns both."""
    path = Path(path)
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    write_text(path.with_suffix(".md"), table)
    return [path, path.with_suffix(".md")]


def number_or_not_available(value: float | None, digits: int) -> str:
    """A number as a table has it, or ``n/a``."""
    return "n/a" if value is None else f"{value:.{digits}f}"
