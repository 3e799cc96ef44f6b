"""Runs side by side, for the tables and figures of RESULTS.md: trained one after the other, and drawn together."""

import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqvae_speech.errors import UserError
from sqvae_speech.plots import plot_curves
from sqvae_speech.training.metrics_log import read_metrics


@dataclass(frozen=True)
class Run:
    """One of the runs that are compared.

    Attributes:
        name: of the row; runs that differ in their seed alone share it.
        config: YAML file.
        overrides: words for the command line, ``--section.key value``.
        seed: of weights, noise and order.
    """

    name: str
    config: Path
    overrides: tuple[str, ...] = ()
    seed: int = 0

    def finished(self, root: Path, step: int) -> Path | None:
        """The checkpoint of a step, when there is one."""
        checkpoint = self.folder(root) / "checkpoints" / f"step-{step:08d}"
        return checkpoint if checkpoint.is_dir() else None

    def folder(self, root: Path) -> Path:
        """Of the run, under ``root``: its name in letters that need no quotes, and its seed."""
        letters = "".join(letter if letter.isalnum() else " " for letter in self.name.lower())
        return root / f"{'-'.join(letters.split())}-seed{self.seed}"


def train_all(runs: Iterable[Run], root: Path, words: Sequence[str] = ()) -> None:
    """Train the runs one after the other, each in a process of its own; a finished one takes no time.

    Args:
        runs: in order.
        root: their folders lie there; a run that was interrupted goes on.
        words: for the command line of all.

    Raises:
        UserError: a run has failed, of which its own output says more.
    """
    for run in runs:
        command = [sys.executable, "-m", "sqvae_speech.bin.train", "--config", str(run.config), "--no-progress"]
        command += ["--exp-dir", str(run.folder(root)), "--training.seed", str(run.seed), *run.overrides, *words]
        print(f"{run.name}, seed {run.seed}: {run.folder(root)}", file=sys.stderr, flush=True)
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise UserError(f"training {run.folder(root)} failed: see above")


def draw_runs(
    exp_dirs: Mapping[str, Path], name: str, path: Path, label: str, *, split: str = "valid", smooth: int = 1
) -> None:
    """Draw what the runs' logs say of a metric, over steps.

    Args:
        exp_dirs: name in the figure -> folder of the run.
        name: of the metric.
        path: the PNG to write.
        label: of the vertical axis.
        split: ``train`` or ``valid``.
        smooth: lines to average over: those of training are of single batches.
    """
    plot_curves(
        path, {title: curve(exp_dir, name, split, smooth) for title, exp_dir in exp_dirs.items()}, ylabel=label
    )


def curve(exp_dir: Path, name: str, split: str, smooth: int = 1) -> tuple[list[float], list[float]]:
    """Steps and values of a metric in a run's log; see :func:`draw_runs`."""
    rows = [row for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == split and name in row]
    windows = [rows[max(0, end - smooth) : end] for end in range(1, len(rows) + 1)]
    return [row["step"] for row in rows], [sum(row[name] for row in window) / len(window) for window in windows]


def spread(values: Sequence[float], digits: int, unit: str = "") -> str:
    """``mean ± standard deviation`` of several seeds, of one its value."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "") + unit


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is names and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def replace_table(path: Path, table: str, name: str = "results") -> None:
    """Put a table between the lines ``<!-- name -->`` and ``<!-- end of name -->`` of a Markdown file.

    Raises:
        UserError: the file has no such lines.
    """
    text = path.read_text(encoding="utf-8")
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise UserError(
            f"{path} has no lines {first.strip()!r} and {last.strip()!r}, between which the table belongs"
        )
    path.write_text(before + first + table + last + after, encoding="utf-8")
