"""Self-annealing, the paper's figure on MNIST, on the digits of scikit-learn: trainable variances against fixed ones.

python egs/mini_image/local/annealing.py --exp egs/mini_image/exp/annealing --plot annealing.png

Makes the shards below --exp when they are not there. In each run σ² of the quantizer starts at one value, and either
is trained or stays there. σ² of the decoder is the mean squared error, its maximum-likelihood value (ARELBO).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.data.image_corpora.digits import prepare_digits
from sqvae_speech.data.image_shards import write_image_shards
from sqvae_speech.data.shard_folder import is_shards
from sqvae_speech.plots import plot_panels
from sqvae_speech.training.comparison import Run, curve, train_all

CONFIG = Path(__file__).resolve().parents[1] / "conf" / "annealing.yaml"
START = "--model.quantizer.init_variance"
HELD = ("--training.log_scale_lr_multiplier", "0")
RUNS = [
    Run("trained, from 10", CONFIG, (START, "10")),
    Run("trained, from 1", CONFIG, (START, "1")),
    *(Run(f"fixed at {value}", CONFIG, (START, value, *HELD)) for value in ("10", "1", "0.1")),
]
# panel -> metric of training
PANELS = {
    "σ² of the decoder (MSE)": "mse",
    "σ² of the quantizer": "variance",
    "the same, relative to\nthe variance of codes": "relative_variance",
    "entropy of q(k | z), nats": "entropy",
    "perplexity": "perplexity",
}
SMOOTH = 4  # lines of the log, of 25 steps each


def main(argv: Sequence[str] | None = None) -> int:
    """Train and draw."""
    parser = ArgumentParser(prog="annealing.py", description="Draw how variances and entropy fall in training.")
    parser.add_argument("--exp", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--plot", type=Path, required=True, help="the PNG to write")
    options = parser.parse_args(argv)
    shards = options.exp / "dump" / "train"
    if not is_shards(shards):
        prepare_digits(None, options.exp / "data")
        write_image_shards(options.exp / "data" / "train", shards, size=(28, 28), progress=False)
    train_all(RUNS, options.exp, ("--data.train", str(shards)))
    panels = {
        label: {one.name: curve(one.folder(options.exp), metric, "train", SMOOTH) for one in RUNS}
        for label, metric in PANELS.items()
    }
    variances = [label for label, metric in PANELS.items() if metric in ("mse", "variance", "relative_variance")]
    print(plot_panels(options.plot, panels, log_y=variances))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
