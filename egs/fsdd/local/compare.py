"""Score the kept checkpoints of several runs on the same shards, as one Markdown table: the numbers of RESULTS.md.

python egs/fsdd/local/compare.py --shards egs/fsdd/dump/sqvae16k/test --plots egs/fsdd/results egs/fsdd/exp/*

With --plots, also draw what the runs logged on the way: error and perplexity on their validation split.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.scores import score_shards
from sqvae_speech.models.pretrained import load_speech_model
from sqvae_speech.training.comparison import draw_runs

HEADER = "| run | step | error (dB²) | perplexity | usage | bit/s |\n|---|---:|---:|---:|---:|---:|\n"


def row(exp_dir: Path, checkpoint: Path, shards: str) -> str:
    """Scores of one checkpoint, as a line of the table."""
    bundle = load_speech_model(checkpoint)
    scores = score_shards(bundle, shards, progress=False)
    assert scores.error is not None, "the speakers of these shards were trained: score_shards has checked"
    cells = (
        exp_dir.name,
        f"{bundle.step:,}",
        f"{scores.error.pooled:.2f}",
        f"{scores.codebook.perplexity:.0f}",
        f"{scores.codebook.used}/{scores.codebook.codebook_size}",
        f"{scores.units.bitrate:.0f}",
    )
    return "| " + " | ".join(cells) + " |\n"


def draw_curves(exp_dirs: Sequence[Path], folder: Path) -> None:
    """Write ``folder/{error,perplexity}.png``: the runs' validations over steps."""
    named = {path.name: path for path in exp_dirs}
    draw_runs(named, "db2", folder / "error.png", "error (dB²), dev")
    draw_runs(named, "perplexity", folder / "perplexity.png", "perplexity, dev")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = ArgumentParser(prog="compare.py", description="Score the kept checkpoints of several runs.")
    parser.add_argument("--shards", required=True, help="folder of shards to score on")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[2000, 5000, 10000, 20000], help="checkpoints to score"
    )
    parser.add_argument("--plots", type=Path, help="folder for curves of error and perplexity")
    parser.add_argument("exp_dirs", type=Path, nargs="+", help="experiment folders")
    options = parser.parse_args(argv)
    table = HEADER
    for exp_dir in options.exp_dirs:
        names = [exp_dir / "checkpoints" / f"step-{step:08d}" for step in options.steps]
        checkpoints = [name for name in names if name.is_dir()]
        if not checkpoints:
            raise UserError(f"{exp_dir} has none of the checkpoints {', '.join(map(str, options.steps))}")
        for checkpoint in checkpoints:
            table += row(exp_dir, checkpoint, options.shards)
    print(table, end="")
    if options.plots:
        draw_curves(options.exp_dirs, options.plots)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
