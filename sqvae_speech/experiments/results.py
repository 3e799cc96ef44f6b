"""The results of a sweep: a row a configuration and step, means and spreads over seeds."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.config import flatten
from sqvae_speech.data.files import write_text
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.experiments.comparison import draw_curves
from sqvae_speech.experiments.runs import read_run
from sqvae_speech.experiments.sweep import Outcome, Reference, State, score_file, scored_steps
from sqvae_speech.experiments.sweep_config import SweepConfig
from sqvae_speech.experiments.tables import csv_table, markdown_table, number
from sqvae_speech.training.metrics_log import read_metrics


@dataclass(frozen=True)
class Row:
    """Of one configuration at one step.

    Attributes:
        group: its name.
        settings: in which it differs from others.
        step: of the checkpoint, or of the last validation.
        values: of each column, one a seed that has it.
    """

    group: str
    settings: dict[str, Any]
    step: int
    values: dict[str, list[float]]

    def mean(self, column: str) -> float | None:
        values = self.values.get(column)
        return statistics.fmean(values) if values else None

    def spread(self, column: str) -> float | None:
        """The standard deviation of a sample; None of fewer than two."""
        values = self.values.get(column, [])
        return statistics.stdev(values) if len(values) > 1 else None


def collect(config: SweepConfig, outcomes: Sequence[Outcome], references: Sequence[Reference] = ()) -> list[Row]:
    """The rows of all references that are scored (as step 0) and of all trials that are done.

    Raises:
        UserError: a column that no score fills, though there are scores.
    """
    rows: dict[tuple[str, int], Row] = {}
    names: dict[str, None] = {}
    for reference in references:
        if reference.file.is_file():
            scores = _numbers(_flat_scores(json.loads(reference.file.read_text(encoding="utf-8"))))
            names.update(dict.fromkeys(scores))
            row = rows[reference.name, 0] = Row(reference.name, {}, 0, {})
            _fill(row, config, scores)
    for outcome in outcomes:
        if outcome.state != State.DONE:
            continue
        for step, scores in _scores(config, outcome.folder).items():
            names.update(dict.fromkeys(scores))
            row = rows.setdefault(
                (outcome.trial.group, step), Row(outcome.trial.group, outcome.trial.settings, step, {})
            )
            _fill(row, config, scores)
    for what in config.columns.values():
        paths = _paths(what)
        if names and not any(path in names for path in paths):
            raise UserError(
                f"columns: no score {paths[0]!r}{nearest(paths[0], names)}; there are: {', '.join(names)}"
            )
    return list(rows.values())


def _fill(row: Row, config: SweepConfig, scores: Mapping[str, float]) -> None:
    """Add the scores of a seed to a row."""
    wanted = {name: _paths(what) for name, what in config.columns.items()} or {
        name.removeprefix("valid/"): [name] for name in scores if name.startswith("valid/")
    }
    for name, paths in wanted.items():
        value = next((scores[path] for path in paths if path in scores), None)
        if value is not None and math.isfinite(value):
            row.values.setdefault(name, []).append(value)


def write_results(
    config: SweepConfig, outcomes: Sequence[Outcome], output: Path, references: Sequence[Reference] = ()
) -> list[Path]:
    """Write ``results.{md,csv,json}`` and the curves; returns the files."""
    rows = collect(config, outcomes, references)
    columns = list(config.columns) or list(dict.fromkeys(name for row in rows for name in row.values))
    files = [output / f"results.{kind}" for kind in ("md", "csv", "json")]
    write_text(files[0], markdown(config, rows, columns, outcomes, references))
    write_text(files[1], _csv(rows, columns))
    write_text(files[2], _json(config, rows, columns, outcomes))
    done = [(outcome.trial.name, outcome.folder) for outcome in outcomes if outcome.state == State.DONE]
    return [*files, *draw_curves(done, config.curves, output / "curves")]


def markdown(
    config: SweepConfig,
    rows: Sequence[Row],
    columns: Sequence[str],
    outcomes: Sequence[Outcome],
    references: Sequence[Reference] = (),
) -> str:
    """The table for people, and what is missing from it."""
    forms = {name: what.partition(":")[2] for name, what in config.columns.items()}
    seeds = len(config.seeds) > 1
    body = []
    for row in rows:
        cells = [
            row.group,
            f"{row.step:,}" if row.step else "",
            *(_spread(row, name, forms.get(name, "")) for name in columns),
        ]
        body.append([*cells, str(max(map(len, row.values.values()), default=0))] if seeds else cells)
    text = markdown_table(["run", "step", *columns, *(["seeds"] if seeds else [])], body)
    if seeds:
        text += "\nMean ± standard deviation over seeds.\n"
    missing = [outcome for outcome in outcomes if outcome.state != State.DONE]
    unscored = [reference for reference in references if not reference.file.is_file()]
    if missing or unscored:
        text += "\nNot in the table:\n\n"
        for outcome in missing:
            reason = f": {' '.join(outcome.message.split())}" if outcome.message else ""
            text += f"- {outcome.trial.name}: {outcome.state}{reason}\n"
        text += "".join(f"- {reference.name}: not scored\n" for reference in unscored)
    return text


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    settings = list(dict.fromkeys(key for row in rows for key in row.settings))
    header = ["run", *settings, "step", "seeds", *(part for name in columns for part in (name, f"{name} std"))]
    body = []
    for row in rows:
        cells = [row.group, *(_plain(row.settings.get(key)) for key in settings), str(row.step)]
        cells.append(str(max(map(len, row.values.values()), default=0)))
        for name in columns:
            cells += [_plain(row.mean(name)), _plain(row.spread(name))]
        body.append(cells)
    return csv_table(header, body)


def _json(config: SweepConfig, rows: Sequence[Row], columns: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    trials = []
    for outcome in outcomes:
        run = read_run(outcome.folder)
        trials.append(
            {
                "name": outcome.trial.name,
                "group": outcome.trial.group,
                "settings": outcome.trial.settings,
                "seed": outcome.trial.seed,
                "state": str(outcome.state),
                "message": outcome.message,
                "step": run.step,
                "seconds": run.seconds,
                "device": run.device,
                "scores": _scores(config, outcome.folder) if outcome.state == State.DONE else {},
            }
        )
    groups = [
        {**asdict(row), "mean": {name: row.mean(name) for name in columns}}
        | {"std": {name: row.spread(name) for name in columns}}
        for row in rows
    ]
    return json.dumps({"columns": config.columns, "results": groups, "trials": trials}, indent=2) + "\n"


def _scores(config: SweepConfig, folder: Path) -> dict[int, dict[str, float]]:
    """Of each step that is reported: scores of the validation, and those that the sweep had measured."""
    path = folder / "metrics.jsonl"
    rows = read_metrics(path) if path.is_file() else []
    valid = {row["step"]: row for row in rows if row["split"] == "valid"}
    found = {}
    for step in scored_steps(config.score, folder) or [read_run(folder).step]:
        scores = {
            f"valid/{name}": value for name, value in valid.get(step, {}).items() if name not in ("step", "split")
        }
        file = score_file(folder, step)
        if file.is_file():
            scores.update(_flat_scores(json.loads(file.read_text(encoding="utf-8"))))
        found[step] = _numbers(scores)
    return found


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers; of a list ``name.0``, ``name.1``, ..."""
    lists = {name: value for name, value in scores.items() if isinstance(value, list)}
    spread = {f"{name}.{place}": each for name, value in lists.items() for place, each in enumerate(value)}
    return {name: value for name, value in {**scores, **spread}.items() if isinstance(value, (int, float))}


def _flat_scores(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths; a list of splits goes by their names."""
    named = {key: value for key, value in values.items() if key != "splits"}
    for split in values.get("splits", []):
        named[str(split.get("split"))] = split
    return flatten(named)


def _paths(what: str) -> list[str]:
    return what.partition(":")[0].split("|")


def _spread(row: Row, column: str, form: str) -> str:
    mean, spread = row.mean(column), row.spread(column)
    if mean is None:
        return ""
    written = format(mean, form) if form else number(mean)
    if spread is None:
        return written
    return f"{written} ± {format(spread, form) if form else number(spread)}"


def _plain(value: Any) -> str:
    return "" if value is None else str(value)
