"""Metrics of a run: one JSON line a record, the same to TensorBoard, and curves drawn from the file."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from sqvae_speech.data.files import read_json_lines
from sqvae_speech.plots import plot_curves


class MetricsLog:
    """Appends metrics to ``metrics.jsonl`` and TensorBoard.

    Args:
        exp_dir: of the run.
        curves: figures to draw, ``{figure: ("split/metric", ...)}``.
        resume_step: records after this step, written before an interruption, are dropped.
    """

    def __init__(self, exp_dir: Path, curves: Mapping[str, Sequence[str]], resume_step: int = 0):
        self.curves = curves
        self.path = exp_dir / "metrics.jsonl"
        self.plots_dir = exp_dir / "plots"
        if self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
            partial = self.path.with_suffix(".jsonl.partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            os.replace(partial, self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(exp_dir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Record ``metrics`` of ``split`` (``train`` or ``valid``) at ``step``."""
        self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"{split}/{name}", value, step)

    def plot(self) -> None:
        """Draw the curves of the run so far as PNGs under ``plots/``."""
        rows = read_metrics(self.path)
        for figure, names in self.curves.items():
            curves = {}
            for name in names:
                split, metric = name.split("/")
                points = [(row["step"], row[metric]) for row in rows if row["split"] == split and metric in row]
                if points:
                    steps, values = zip(*points, strict=True)
                    curves[name] = (steps, values)
            if curves:
                logarithmic = [name for name in curves if name.endswith(("variance", "kappa"))]
                path = self.plots_dir / f"{figure}.png"
                plot_curves(path, curves, panels=figure == "annealing", log_y=logarithmic)

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line cut off by a crash is left out."""
    return read_json_lines(path)
