"""Metrics of a run: one JSON line a record, and curves drawn from the file."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqvae_speech.data.files import read_json_lines, write_text

# Figures of any run; a task adds its own. A name may hold `*`.
COMMON_CURVES: dict[str, tuple[str, ...]] = {
    "optimization": ("train/learning_rate", "train/grad_norm"),
    "speed": ("train/*_per_second", "train/data_seconds"),
}
_LOGARITHMIC = ("variance", "kappa", "learning_rate", "grad_norm")


class MetricsLog:
    """Appends metrics to ``metrics.jsonl``.

    Args:
        exp_dir: of the run.
        curves: figures to draw, ``{figure: ("split/metric", ...)}``, besides :data:`COMMON_CURVES`.
        resume_step: records after this step, written before an interruption, are dropped.
    """

    def __init__(self, exp_dir: Path, curves: Mapping[str, Sequence[str]], resume_step: int = 0):
        self.curves = {**COMMON_CURVES, **curves}
        self.path = exp_dir / "metrics.jsonl"
        self.plots_dir = exp_dir / "plots"
        if self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Record ``metrics`` of ``split`` (``train`` or ``valid``) at ``step``."""
        self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self._file.flush()

    def plot(self) -> None:
        """Draw the curves of the run so far as PNGs under ``plots/``: a panel a metric, a line a split."""
        from sqvae_speech.plots import plot_curves

        rows = read_metrics(self.path)
        there = list(dict.fromkeys(f"{row['split']}/{name}" for row in rows for name in row))
        for figure, wanted in self.curves.items():
            names = dict.fromkeys(name for pattern in wanted for name in fnmatch.filter(there, pattern))
            panels: dict[str, list[str]] = {}
            for name in names:
                panels.setdefault(name.partition("/")[2], []).append(name)
            if panels:
                curves = {name: curve(rows, *name.split("/")) for name in names}
                logarithmic = [metric for metric in panels if metric.endswith(_LOGARITHMIC)]
                plot_curves(self.plots_dir / f"{figure}.png", curves, panels=panels, log_y=logarithmic)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; lines that a crash or a full disk has cut off are left out."""
    return [row for row in read_json_lines(path) if isinstance(row.get("step"), int) and "split" in row]


def curve(rows: Sequence[Mapping[str, Any]], split: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric of a split."""
    found = [(row["step"], row[metric]) for row in rows if row["split"] == split and metric in row]
    return [step for step, _ in found], [value for _, value in found]
