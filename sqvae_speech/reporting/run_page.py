"""The page of one run, from what its folder holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.experiments.tables import number
from sqvae_speech.reporting.codebook_figures import code_sounds, codebook_figures, neighbour_table
from sqvae_speech.reporting.curves import run_curves
from sqvae_speech.reporting.embed import image_file_uri, sound_file_uri
from sqvae_speech.reporting.examples import Example, Voice
from sqvae_speech.reporting.key_figures import key_figures
from sqvae_speech.reporting.page import Fold, Missing, Page, Picture, Section
from sqvae_speech.reporting.run_facts import run_facts, summary
from sqvae_speech.reporting.run_folder import RunFolder, safely, short_path
from sqvae_speech.reporting.scores_section import scores_section

_CONVERSIONS = 6  # of those on disk, where none could be made
_PICTURES = 12


@dataclass(frozen=True)
class Listening:
    """What can be heard.

    Attributes:
        examples: made of the model.
        note: how they were made, or why there are none.
    """

    examples: Sequence[Example] = ()
    note: str = ""


def run_page(folder: RunFolder, baselines: Sequence[dict[str, Any]] = (), listening: Listening | None = None) -> Page:
    """Gather a page.

    Args:
        folder: of the run.
        baselines: evaluations of others, see :func:`sqvae_speech.evaluation.evidence_report.read_evidence`.
        listening: what can be heard; by default what ``sqvae-speech convert`` has left in the folder.
    """
    material = _Material(folder, list(baselines), listening or Listening())
    return Page(
        kind="Run report",
        title=folder.name,
        summary=summary(folder),
        status=folder.run.status,
        message=folder.run.message,
        key_figures=key_figures(folder),
        sections=[make(material) for make in _SECTIONS.get(folder.task, _ANY)],
    )


@dataclass(frozen=True)
class _Material:
    folder: RunFolder
    baselines: list[dict[str, Any]]
    listening: Listening


def _listen(material: _Material) -> Section:
    folder, examples = material.folder, list(material.listening.examples)
    note = material.listening.note
    if not examples:
        examples = _conversions(folder)
        if examples:
            note = f"Of the conversions in {short_path(folder.path / 'wav')}. {note}".strip()
    missing = []
    if not examples:
        words = ("--model", "{run}", "--shards", "{shards}", "--all-pairs", "--max", "12", "--output", "{run}/wav")
        command = folder.command("convert", *words)
        missing.append(Missing(f"Nothing to hear yet. {note}".strip(), (command,)))
        note = ""
    return Section("listen", "Listen", note, examples=examples, missing=missing)


def _conversions(folder: RunFolder) -> list[Example]:
    found = []
    for line in folder.conversions[:_CONVERSIONS]:
        # a log says names, not paths: nothing outside the folder is read
        sound = sound_file_uri(folder.path / "wav" / Path(str(line["wav"])).name)
        plot = image_file_uri(folder.path / "wav" / Path(str(line["plot"])).name) if line.get("plot") else None
        if sound:
            name = str(line.get("utterance_id"))
            target = str(line.get("target_speaker"))
            alt = f"Log-mels of {name} and of its conversion to {target}, one above the other"
            found.append(Example(name, "", (Voice(f"converted to {target}", sound, plot, alt),)))
    return found


def _scores(material: _Material) -> Section:
    return scores_section(material.folder, material.baselines)


def _training(material: _Material) -> Section:
    folder = material.folder
    figures, rest = run_curves(folder.metrics)
    if not figures:  # of a task that has curves of its own
        figures, rest = rest, []
    missing = []
    if not figures:
        missing.append(Missing("No metrics yet: training writes metrics.jsonl into the folder of the run."))
    run = folder.run
    words = [f"{run.step:,} of {run.num_steps:,} steps" if run.num_steps else f"{run.step:,} steps"]
    if run.best:
        words.append(f"best checkpoint at step {run.best['step']:,.0f}")
    fold = [Fold("All other metrics", figures=tuple(rest))] if rest else []
    intro = f"{', '.join(words)}. Curves are scaled to what they do after the first twentieth of the way."
    return Section("training", "Training", intro if figures else "", figures=figures, folds=fold, missing=missing)


def _codebook(material: _Material) -> Section:
    folder = material.folder
    words = ("--model", "{run}", "--shards", "{shards}", "--output", "{run}/codebook")
    commands = (folder.command("evaluate", "codebook", *words),)
    codebook = folder.codebook
    if codebook is None:
        what = "The codebook is not looked at yet: use of the codes, a map, the phones of each, how they sound."
        return Section("codebook", "Codebook", missing=[Missing(what, commands)])
    section = safely(_looked_at, folder, codebook)
    if section is None:
        what = f"{folder.path / 'codebook' / 'codebook.json'} is damaged, or of another version; make it again."
        return Section("codebook", "Codebook", missing=[Missing(what, commands)])
    return section


def _looked_at(folder: RunFolder, codebook: dict[str, Any]) -> Section:
    units = sum(code["count"] for code in codebook["codes"])
    shards = ", ".join(short_path(one) for one in codebook.get("shards") or ())
    return Section(
        "codebook",
        "Codebook",
        f"On {units:,} units{f' of {shards}' if shards else ''}.",
        figures=codebook_figures(codebook),
        tables=[neighbour_table(codebook)],
        sounds=code_sounds(folder.path / "codebook", codebook),
        sounds_title="Codes by ear: the mean log-mel around the uses of a code, three times",
    )


def _pictures(material: _Material) -> Section:
    """What the stages of an image run have drawn."""
    path = material.folder.path
    files = [
        *sorted((path / "scores").glob("*.png")),
        *sorted((path / "prior" / "samples").glob("*.png")),
        *(file for file in sorted((path / "plots").glob("*.png")) if file.stem not in _CURVE_PLOTS),
    ]
    files.sort(key=lambda file: not file.stem.startswith(("reconstruction", "samples")))  # stable: these first
    found = []
    for file in files[:_PICTURES]:
        if uri := image_file_uri(file):
            title = str(file.relative_to(path).with_suffix(""))
            found.append(Picture(title, uri, f"Picture {title} of the run"))
    if not found:
        words = ("--model", "{run}", "--shards", "{shards}", "--output", "{run}/scores/scores.json")
        command = material.folder.command("score", *words, "--plots", "{run}/scores")
        return Section("pictures", "Pictures", missing=[Missing("No reconstructions yet.", (command,))])
    return Section("pictures", "Pictures", pictures=found)


_CURVE_PLOTS = {"losses", "speed", "error", "optimization", "annealing", "codebook"}  # drawn anew from the metrics


def _the_run(material: _Material) -> Section:
    folder = material.folder
    folds = [Fold("config.yaml", folder.config_text)] if folder.config_text else []
    if len(folder.starts) > 1 or any(start.get("changed") for start in folder.starts):
        lines = [safely(_start, one) or "?" for one in folder.starts]
        folds.append(Fold(f"Started {len(lines)} times", "\n".join(lines)))
    missing = []
    if not folder.environment:
        missing.append(Missing("No environment.json: this run was made by a version that did not write one yet."))
    return Section("run", "The run", facts=run_facts(folder), folds=folds, missing=missing)


def _start(start: dict[str, Any]) -> str:
    changed = start.get("changed")
    words = [str(start.get("time", "")), f"step {start.get('step', 0)}", str(start.get("device", ""))]
    if isinstance(changed, dict):
        words += [f"{key}: {_written(old)} -> {_written(new)}" for key, (old, new) in changed.items()]
    return ", ".join(words)


def _written(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) else str(value)


_ANY: tuple[Callable[[_Material], Section], ...] = (_scores, _training, _the_run)
# by task
_SECTIONS = {"speech": (_listen, _scores, _training, _codebook, _the_run), "image": (_pictures, *_ANY)}
