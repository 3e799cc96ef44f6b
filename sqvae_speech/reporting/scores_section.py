"""The scores of a run, or of several side by side: tables, and ABX as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqvae_speech.reporting.charts import Dots, Figure, dot_plot
from sqvae_speech.reporting.key_figures import telling_abx
from sqvae_speech.reporting.page import Missing, Section
from sqvae_speech.reporting.run_folder import RunFolder, safely, short_path
from sqvae_speech.reporting.tables import (
    Table,
    different_sets,
    language_model_table,
    representation_table,
    split_table,
    unit_table,
    voice_table,
)


def scores_section(folder: RunFolder, baselines: Sequence[dict[str, Any]]) -> Section:
    """What was measured of a run, and of the baselines beside it."""
    tables: list[Table | None] = []
    missing = []
    if folder.scores is not None:
        tables.append(safely(split_table, folder.scores))
    elif folder.task in ("speech", "image"):
        words = ("--model", "{run}", "--shards", "{shards}", "--output", "{run}/scores/scores.json")
        what = "Reconstruction error and use of the codes on held-out data are not measured yet."
        missing.append(Missing(what, (folder.command("score", *words),)))
    if folder.lm_scores is not None:
        tables.append(safely(language_model_table, folder.lm_scores))
    if folder.voices is not None:
        tables.append(safely(voice_table, folder.voices))
    own = [folder.evaluation] if folder.evaluation is not None else []
    evaluations = evaluated([*own, *baselines], len(own))
    if folder.task == "speech" and folder.evaluation is None:
        words = ("--model", "{run}", "--shards", "{shards}", "--output", "{run}/evaluation.json")
        what = (
            "ABX, probes and units against phones are not measured yet. On Python 3.11 add --no-abx; --train-shards "
            "gives the probes other utterances to learn from."
        )
        missing.append(Missing(what, (folder.command("evaluate", *words),)))
    if folder.evaluation is not None and not baselines:
        base = folder.command("evaluate", "--features", "mel", "--shards", "{shards}", "--output", "mel.json")
        command = folder.command("report", "{run}", "--baselines", "mel.json")
        missing.append(Missing("To set others beside it, evaluate them on the same set:", (base, command)))
    return Section(
        "scores",
        "Scores",
        evaluations.intro,
        figures=evaluations.figures,
        tables=[table for table in (*tables, *evaluations.tables) if table is not None],
        missing=missing,
    )


@dataclass(frozen=True)
class Evaluated:
    """Evaluations side by side: a paragraph, figures and tables."""

    intro: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def evaluated(evidence: Sequence[dict[str, Any]], own: int) -> Evaluated:
    """Set evaluations side by side.

    Args:
        evidence: what ``sqvae-speech evaluate`` wrote; none gives nothing.
        own: how many of them, from the first, are of the run that the page is about.
    """
    if not evidence:
        return Evaluated()
    found = safely(_side_by_side, evidence, own)
    return Evaluated("An evaluation is damaged, or of another version: make it again.") if found is None else found


def _side_by_side(evidence: Sequence[dict[str, Any]], own: int) -> Evaluated:
    intro = _measured_on(evidence[0])
    if others := different_sets(evidence):
        intro += f" Measured on another set, so not to be compared: {', '.join(others)}."
    figure = _abx_plot(evidence, own)
    tables = [table for make in (unit_table, representation_table) if (table := make(evidence, own))]
    return Evaluated(intro, [figure] if figure else [], tables)


def _measured_on(evidence: dict[str, Any]) -> str:
    names = ", ".join(short_path(one) for one in evidence.get("shards") or ())
    return (
        f"Representations and units on {evidence.get('utterances')} utterances of {evidence.get('speakers')} "
        f"speakers ({evidence.get('seconds', 0):.0f} s), {names}. Bold: the best of a row, where better can be told."
    )


def _abx_plot(evidence: Sequence[dict[str, Any]], own: int) -> Figure | None:
    """Errors within and across speakers, a line a representation."""
    rows = [
        (f"{one['name']}: {kind}", scores.get("abx") or {}, place < own)
        for place, one in enumerate(evidence)
        for kind, scores in one["representations"].items()
    ]
    chosen = telling_abx([abx for _, abx, _ in rows])
    if chosen is None:
        return None
    span, context = chosen

    def error(abx: dict[str, Any], speakers: str) -> float | None:
        score = (abx.get(span) or {}).get(f"{speakers}_{context}")
        return None if score is None else 100 * score["error"]

    dots = [
        Dots(name, {f"{speakers} speakers": error(abx, speakers) for speakers in ("within", "across")}, mine)
        for name, abx, mine in rows
    ]
    title = f"ABX error: {span}, {'same' if context == 'within' else 'any'} context"
    return dot_plot(title, dots, xlabel="%, lower is better; chance is 50")
