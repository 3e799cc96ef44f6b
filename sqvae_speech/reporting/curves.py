"""The curves of training: of one run, or of several over one another."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqvae_speech.reporting.charts import Figure, Series, line_chart
from sqvae_speech.reporting.drawing import short
from sqvae_speech.training.metrics_log import curve


@dataclass(frozen=True)
class Panel:
    """What a chart shows.

    Attributes:
        title: of it.
        metrics: ``split/metric`` names, drawn into one chart.
        log: on a logarithmic axis.
    """

    title: str
    metrics: tuple[str, ...]
    log: bool = False


PANELS = (
    Panel("Error (dB²)", ("valid/db2",)),
    Panel("Squared error", ("train/mse", "valid/mse")),
    Panel("Loss in training", ("train/loss",)),
    Panel("Loss in validation", ("valid/loss", "valid/loss_sampled")),
    Panel("Bits a unit", ("train/bits_per_unit", "valid/bits_per_unit")),
    Panel("Accuracy", ("train/accuracy", "valid/accuracy")),
    Panel("Perplexity of the codes", ("train/perplexity", "valid/perplexity")),
    Panel("Share of codes in use", ("train/usage", "valid/usage")),
    Panel("Entropy of the posterior (nats)", ("train/entropy", "valid/entropy")),
    Panel("σ² of the quantizer", ("train/variance", "train/relative_variance"), log=True),
    Panel("κ of the quantizer", ("train/kappa",), log=True),
    Panel("Divergences (nats)", ("train/kl_discrete", "train/kl_continuous")),
    Panel("Temperature", ("train/temperature",)),
    Panel("Learning rate", ("train/learning_rate",)),
    Panel("Norm of the gradient", ("train/grad_norm",), log=True),
    Panel("Steps a second", ("train/steps_per_second",)),
)
# what the panels above say already, or what is not a course
_LEFT_OUT = ("train/epoch", "train/run_seconds", "train/collapsed", "*/step", "*/split")


def run_curves(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Figure], list[Figure]]:
    """Charts of a run's metrics, a colour a metric.

    Returns:
        Those that everybody wants to see, and those of all other metrics.
    """
    there = _names(rows)
    first = [figure for panel in PANELS if (figure := _chart(panel, rows, there))]
    shown = {name for panel in PANELS for name in _matching(panel, there)}
    rest = [name for name in there if name not in shown and not any(fnmatch.fnmatch(name, one) for one in _LEFT_OUT)]
    return first, [figure for name in rest if (figure := _chart(Panel(name, (name,)), rows, there))]


def compared_curves(runs: Sequence[tuple[str, int, Sequence[Mapping[str, Any]]]]) -> list[Figure]:
    """Charts of the validation, or of training where there is none, of several runs.

    Args:
        runs: name, colour, and metrics of each.

    Returns:
        Charts without keys: one key is for all.
    """
    there = list(dict.fromkeys(name for _, _, rows in runs for name in _names(rows)))
    figures = []
    for panel in PANELS:
        found = _matching(panel, there)
        if not found:
            continue
        metric = next((name for name in found if name.startswith("valid/")), found[0])
        series = [Series(name, *curve(rows, *metric.split("/", 1)), colour) for name, colour, rows in runs]
        several = len({name.partition("/")[0] for name in panel.metrics}) > 1
        title = f"{panel.title}, {_SPLITS[metric.partition('/')[0]]}" if several else panel.title
        if figure := line_chart(title, series, log_y=panel.log):
            figures.append(replace(figure, keys={}))
    return figures


_SPLITS = {"train": "training", "valid": "validation"}


def _chart(panel: Panel, rows: Sequence[Mapping[str, Any]], there: Sequence[str]) -> Figure | None:
    names = _matching(panel, there)
    series = []
    for place, name in enumerate(names):
        split, _, metric = name.partition("/")
        several = len({one.partition("/")[2] for one in names}) > 1
        label = metric.replace("_", " ") if several else _SPLITS.get(split, split)
        series.append(Series(label, *curve(rows, split, metric), place))
    if not any(one.y for one in series):
        return None
    told = next(
        (one for one, name in zip(series, names, strict=True) if name.startswith("valid/") and one.y), series[0]
    )
    note = f"{short(told.y[-1])} at step {short(told.x[-1])}" + (f" ({told.name})" if len(series) > 1 else "")
    return line_chart(panel.title, series, log_y=panel.log, note=note)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """``split/metric`` of all numbers in the metrics."""
    found = dict.fromkeys(
        f"{row['split']}/{name}"
        for row in rows
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    )
    return list(found)


def _matching(panel: Panel, there: Sequence[str]) -> list[str]:
    return [name for name in panel.metrics if name in there]
