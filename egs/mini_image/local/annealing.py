"""Self-annealing, the paper's figure on MNIST, on the digits of scikit-learn: trainable variances against fixed ones.

python egs/mini_image/local/annealing.py --output egs/mini_image/exp/annealing --plot annealing.png

Makes the shards below --output when they are not there, and trains what is not trained. In each run σ² of the
quantizer starts at one value, and either is trained or stays. σ² of the decoder is the mean squared error, its
maximum-likelihood value (ARELBO).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.bin.sweep import main as sweep
from sqvae_speech.data.image_corpora.digits import prepare_digits
from sqvae_speech.data.image_shards import write_image_shards
from sqvae_speech.data.shard_folder import is_shards
from sqvae_speech.experiments.trials import Trial, expand, load_sweep
from sqvae_speech.plots import plot_panels
from sqvae_speech.training.metrics_log import curve, read_metrics

SWEEP = Path(__file__).resolve().parents[1] / "conf" / "sweep.yaml"
# panel -> metric of training
PANELS = {
    "σ² of the decoder (MSE)": "mse",
    "σ² of the quantizer": "variance",
    "the same, relative to\nthe variance of codes": "relative_variance",
    "entropy of q(k | z), nats": "entropy",
    "perplexity": "perplexity",
}
LOGARITHMIC = list(PANELS)[:3]
SMOOTH = 4  # lines of the log, of 10 steps each


def title(trial: Trial) -> str:
    """``10, trained`` or ``10, fixed``."""
    start = trial.settings["model.quantizer.init_variance"]
    return f"{start:g}, {'trained' if trial.settings['training.log_scale_lr_multiplier'] else 'fixed'}"


def smoothed(points: tuple[Sequence[float], Sequence[float]]) -> tuple[Sequence[float], Sequence[float]]:
    """Means over the last lines of the log: a line is of one batch."""
    steps, values = points
    return steps, [float(np.mean(values[max(0, end - SMOOTH) : end])) for end in range(1, len(values) + 1)]


def main(argv: Sequence[str] | None = None) -> int:
    """Train and draw."""
    parser = ArgumentParser(prog="annealing.py", description="Draw how variances and entropy fall in training.")
    parser.add_argument("--output", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--plot", type=Path, required=True, help="the PNG to write")
    options = parser.parse_args(argv)
    shards = options.output / "dump" / "train"
    if not is_shards(shards):
        prepare_digits(None, options.output / "data")
        write_image_shards(options.output / "data" / "train", shards, size=(28, 28), progress=False)
    runs = options.output / "runs"
    if code := sweep([str(SWEEP), "--output", str(runs), "--data.train", str(shards)]):
        return code
    trials = expand(load_sweep(SWEEP), SWEEP.parent)
    rows = {title(trial): read_metrics(runs / trial.name / "metrics.jsonl") for trial in trials}
    panels = {
        label: {name: smoothed(curve(own, "train", metric)) for name, own in rows.items()}
        for label, metric in PANELS.items()
    }
    print(plot_panels(options.plot, panels, log_y=LOGARITHMIC))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
