"""The page of several runs: means and spreads over seeds, scores side by side, curves over one another."""

from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.experiments import comparison
from sqvae_speech.experiments.groups import RunGroup, group_by_seed
from sqvae_speech.experiments.results import Row as Values
from sqvae_speech.experiments.runs import Run
from sqvae_speech.reporting.curves import compared_curves
from sqvae_speech.reporting.key_figures import KeyFigure, key_figures
from sqvae_speech.reporting.page import Missing, Page, Section
from sqvae_speech.reporting.run_folder import RunFolder, part, read_run_folder
from sqvae_speech.reporting.scores_section import evaluated
from sqvae_speech.reporting.tables import Row, Table, best_of


def comparison_page(paths: Sequence[Path], title: str) -> Page:
    """Gather a page.

    Args:
        paths: folders of runs.
        title: of the page.
    """
    folders = [read_run_folder(path) for path in paths]
    runs = [folder.run for folder in folders]
    by_path = {folder.path: folder for folder in folders}
    groups = group_by_seed(runs)
    colours = {group.name: number for number, group in enumerate(groups)}
    curves = [(group.name, colours[group.name], by_path[run.path].metrics) for group in groups for run in group.runs]
    figures = compared_curves(curves)
    one_set = len({data for folder in folders if (data := _validated_on(folder))}) <= 1
    means = _means(groups, by_path, one_set)
    sections = [
        Section("overview", "Overview", _overview(groups, one_set) if means else "No scores yet.", tables=means),
        Section(
            "curves",
            "Curves",
            "A colour a configuration, a line a seed." if len(runs) > len(groups) else "",
            figures=figures,
            keys=colours,
            missing=[] if figures else [Missing("No metrics in any of these runs.")],
        ),
        *_evaluations(folders),
        Section("runs", "Each run", tables=[_each(runs)]),
    ]
    summary = f"{len(runs)} run{'s' * (len(runs) != 1)} of {len(groups)} configuration{'s' * (len(groups) != 1)}."
    return Page("Comparison of runs", title, summary, sections=sections)


def _validated_on(folder: RunFolder) -> str:
    """What the data that a run is validated on are known by; empty where there are none."""
    index = folder.data.get("valid", {})
    return str(index.get("fingerprint") or part(folder.config, "data").get("valid") or "")


def _overview(groups: Sequence[RunGroup], one_set: bool) -> str:
    words = "Mean ± standard deviation over seeds, where there are several."
    if all(len(group.runs) == 1 for group in groups):
        words = "One run a configuration: without further seeds, small differences mean nothing."
    if one_set:
        return f"{words} Bold: the best."
    return f"{words} These runs were validated on different data, so their scores are not to be compared."


def _means(groups: Sequence[RunGroup], by_path: dict[Path, RunFolder], mark: bool) -> list[Table]:
    """A row a configuration, a column a key figure; ``mark`` the best of each."""
    found: list[tuple[Values, RunGroup]] = []
    kinds: dict[str, KeyFigure] = {}
    for group in groups:
        values: dict[str, list[float]] = {}
        for run in group.runs:
            for figure in key_figures(by_path[run.path]):
                name = f"{figure.name} ({figure.unit})" if figure.unit else figure.name
                if kinds.setdefault(name, figure).note != figure.note:  # of another split, or another codebook
                    name = f"{name}, {figure.note}"
                    kinds.setdefault(name, figure)
                values.setdefault(name, []).append(figure.value)
        found.append((Values(group.name, {}, max(run.step for run in group.runs), values), group))
    if not kinds:
        return []
    best = {
        name: best_of([row.mean(name) for row, _ in found], lower=figure.better == "lower")
        for name, figure in kinds.items()
        if figure.better and mark
    }
    header = ("seeds", "steps", *(f"{name}{_ARROWS[figure.better]}" for name, figure in kinds.items()))
    rows = []
    for number, (row, group) in enumerate(found):
        cells = (str(len(group.runs)), f"{row.step:,}", *(_spread(row, name, kinds[name].form) for name in kinds))
        marked = frozenset(place + 2 for place, name in enumerate(kinds) if number in best.get(name, ()))
        rows.append(Row(group.name, cells, marked))
    return [Table("Configurations", "", header, tuple(rows), _notes(kinds))]


_ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def _notes(kinds: dict[str, KeyFigure]) -> str:
    """What the columns were measured on, where one note goes for several."""
    notes: dict[str, list[str]] = {}
    for name, figure in kinds.items():
        if not name.endswith(figure.note):
            notes.setdefault(figure.note, []).append(name)
    return "; ".join(f"{', '.join(names)}: {note}" for note, names in notes.items()) + "."


def _spread(row: Values, name: str, form: str) -> str:
    mean, spread = row.mean(name), row.spread(name)
    if mean is None:
        return ""
    return format(mean, form) + (f" ± {format(spread, form)}" if spread is not None else "")


def _each(runs: Sequence[Run]) -> Table:
    """A row a run: how it stands, its last validation, the settings in which it differs."""
    columns, left_out = comparison.default_columns(runs)
    header, cells = comparison.table(runs, columns)
    filled = [place for place in range(len(header)) if any(row[place] for row in cells)]
    header, cells = [header[place] for place in filled], [[row[place] for place in filled] for row in cells]
    rows = tuple(Row(row[0], tuple(row[1:])) for row in cells)
    notes = ["Scores of the last validation, then the settings in which the runs differ."]
    if left_out:
        notes.append(f"{left_out} more settings differ: sqvae-speech runs --json has all.")
    notes += [
        f"{name}: {run.message}" for name, run in zip(comparison.names_of(runs), runs, strict=True) if run.message
    ]
    return Table("Runs", header[0], tuple(header[1:]), rows, " ".join(notes))


def _evaluations(folders: Sequence[RunFolder]) -> list[Section]:
    evidence = [folder.evaluation for folder in folders if folder.evaluation is not None]
    lacking = [folder for folder in folders if folder.evaluation is None and folder.task == "speech"]
    if not evidence and not lacking:
        return []
    missing = [
        Missing(
            f"{len(lacking)} of these runs are not evaluated yet (ABX, probes, units against phones):",
            tuple(
                folder.command(
                    "evaluate", "--model", "{run}", "--shards", "{shards}", "--output", "{run}/evaluation.json"
                )
                for folder in lacking[:8]
            ),
        )
    ]
    found = evaluated(evidence, len(evidence))
    section = Section(
        "evaluation",
        "Evaluation",
        found.intro,
        figures=found.figures,
        tables=found.tables,
        missing=missing if lacking else [],
    )
    return [section]
