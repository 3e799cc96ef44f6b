"""Runs side by side: a table of how they stand and in what they differ, and their curves in one figure."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqvae_speech.errors import UserError, nearest
from sqvae_speech.experiments.runs import Run
from sqvae_speech.experiments.tables import number
from sqvae_speech.training.identity import identity
from sqvae_speech.training.metrics_log import curve, read_metrics

# scores that a table shows unless told otherwise, those that there are
_SCORES = ("loss", "db2", "mse", "bits_per_unit", "accuracy", "perplexity", "usage")
_BEFORE, _AFTER = ("run", "status", "step"), ("time", "device")
_DIFFERENCES = 8  # settings that a table shows unless told otherwise


def names_of(runs: Sequence[Run]) -> list[str]:
    """The shortest ends of their paths that tell runs apart."""
    parts = [run.path.resolve().parts for run in runs]
    for length in range(1, max((len(each) for each in parts), default=0) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Settings that decide what a step does and are not the same in all runs, most telling first.

    Those that some of the runs do not know, being of an older version, come last.
    """
    configs = [identity(run.config) for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    found = {key: [config.get(key, _MISSING) for config in configs] for key in keys}
    different = [key for key, values in found.items() if any(value != values[0] for value in values)]
    return sorted(different, key=lambda key: _MISSING in found[key])


_MISSING = object()


def default_columns(runs: Sequence[Run]) -> tuple[list[str], int]:
    """Columns worth showing, and how many settings that differ are left out."""
    scores = [name for name in _SCORES if any(name in run.scores for run in runs)]
    if "db2" in scores and "mse" in scores:
        scores.remove("mse")  # the same on another scale
    keys = differing_keys(runs)
    return [*_BEFORE, *scores, *keys[:_DIFFERENCES], *_AFTER], len(keys[_DIFFERENCES:])


def value(run: Run, name: str, column: str) -> Any:
    """What a column says of a run; None where it has nothing.

    Args:
        run: whichever.
        name: that it goes by.
        column: ``run``, ``status``, ``message``, ``step``, ``num_steps``, ``time`` (seconds), ``device``,
            ``processes``, ``starts``, ``path``; a score of the last validation, ``best/`` and a score at the best
            checkpoint, ``train/`` and a metric of training; a key of the configuration, or its last part.
    """
    fields = {
        "run": name,
        "status": run.status,
        "message": run.message,
        "step": run.step,
        "num_steps": run.num_steps,
        "time": run.seconds,
        "device": run.device,
        "processes": run.processes,
        "starts": run.starts,
        "path": str(run.path),
    }
    if column in fields:
        return fields[column]
    split, slash, metric = column.partition("/")
    if slash:
        tables = {"best": run.best, "train": run.train, "valid": run.scores}
        return tables.get(split, {}).get(metric)
    if column in run.scores:
        return run.scores[column]
    return run.config.get(_full_key([run], column) or column)


def require_columns(runs: Sequence[Run], columns: Sequence[str]) -> None:
    """Check that every column says something of some run.

    Raises:
        UserError: it names the nearest one that does.
    """
    known = dict.fromkeys([*_BEFORE, "num_steps", "message", "time", "device", "processes", "starts", "path"])
    for run in runs:
        known.update(dict.fromkeys(run.scores))
        for prefix, metrics in (("best", run.best), ("train", run.train), ("valid", run.scores)):
            known.update(dict.fromkeys(f"{prefix}/{metric}" for metric in metrics))
        known.update(dict.fromkeys(run.config))
    for column in columns:
        if column not in known and _full_key(runs, column) is None:
            raise UserError(f"no run has a column {column!r}{nearest(column, known)}; there are: {', '.join(known)}")


def table(runs: Sequence[Run], columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and cells."""
    shorts = _short_keys(columns)
    rows = [
        [_cell(run, column, value(run, name, column)) for column in columns]
        for run, name in zip(runs, names_of(runs), strict=True)
    ]
    return [shorts.get(column, column) for column in columns], rows


def sort_runs(runs: Sequence[Run], column: str) -> list[Run]:
    """By a column, ``-column`` from the largest; those without come last."""
    descending, column = column.startswith("-"), column.removeprefix("-")
    names = names_of(runs)
    values = [value(run, name, column) for run, name in zip(runs, names, strict=True)]
    known = [(each, run) for each, run in zip(values, runs, strict=True) if each is not None and each == each]
    comparable = all(isinstance(each, (int, float)) for each, _ in known)
    known.sort(key=lambda pair: pair[0] if comparable else str(pair[0]), reverse=descending)
    return [run for _, run in known] + [
        run for each, run in zip(values, runs, strict=True) if each is None or each != each
    ]


def to_json(runs: Sequence[Run]) -> str:
    """Everything that is known of the runs."""
    named = zip(names_of(runs), runs, strict=True)
    rows = [{"run": name, **asdict(run), "path": str(run.path)} for name, run in named]
    return json.dumps(rows, indent=2, default=str) + "\n"


def draw_curves(paths: Sequence[tuple[str, Path]], metrics: Sequence[str], folder: Path) -> list[Path]:
    """Draw a metric of several runs over steps, ``folder/<metric>.png`` each.

    Args:
        paths: names and folders of runs.
        metrics: ``split/metric``, such as ``valid/db2``.
        folder: for the figures.

    Returns:
        The files written; none for a metric that no run has.
    """
    from sqvae_speech.plots import plot_curves

    files = []
    rows = {name: read_metrics(path / "metrics.jsonl") for name, path in paths if (path / "metrics.jsonl").is_file()}
    for metric in metrics:
        split, slash, name = metric.partition("/")
        if not slash:
            raise UserError(f"a curve is written split/metric, such as valid/{metric}; got {metric!r}")
        curves = {run: curve(own, split, name) for run, own in rows.items()}
        curves = {run: points for run, points in curves.items() if points[0]}
        if curves:
            files.append(plot_curves(folder / f"{split}_{name}.png", curves, ylabel=metric))
    return files


def _cell(run: Run, column: str, found: Any) -> str:
    if found is None:
        return ""
    if column == "step" and run.num_steps:
        return f"{found}/{run.num_steps}"
    if column == "time":
        return str(timedelta(seconds=round(found)))
    if isinstance(found, (int, float)):
        return number(found)
    return " ".join(str(found).split()) if not isinstance(found, list) else ",".join(map(str, found))


def _full_key(runs: Sequence[Run], short: str) -> str | None:
    """The one key of the configuration that ends so; None for none or several."""
    keys = {key for run in runs for key in run.config if key == short or key.endswith(f".{short}")}
    return keys.pop() if len(keys) == 1 else None


def _short_keys(columns: Sequence[str]) -> dict[str, str]:
    """The last parts of dotted columns, where that tells them apart from all others."""
    lasts = [column.rpartition(".")[2] for column in columns]
    return {
        column: last
        for column, last in zip(columns, lasts, strict=True)
        if "/" not in column and lasts.count(last) == 1
    }
