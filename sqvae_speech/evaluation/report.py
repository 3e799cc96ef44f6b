"""Scores as JSON for programs and as a Markdown table for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqvae_speech.evaluation.report_files import number
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
                number(codebook["perplexity_posterior"], 1),
                f"{codebook['used']}/{codebook['codebook_size']}",
                number(units["bitrate"], 1),
                f"{units['units'] / units['seconds']:.1f}",
                number(units["durations"]["mean_seconds"] * 1000, 1),
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
