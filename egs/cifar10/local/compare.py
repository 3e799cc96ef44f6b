"""Train every quantizer in the same network on CIFAR-10, and write the table of RESULTS.md.

python egs/cifar10/local/compare.py --dump egs/cifar10/dump --exp egs/cifar10/exp

Runs that are finished take no time, those that were interrupted go on: the command can be given again at any time,
and writes what there is. --only names runs to train now; --table trains nothing.
"""

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.config import load_config
from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_loader import image_batches
from sqvae_speech.models.pretrained_image import load_image_model
from sqvae_speech.training.comparison import Run, draw_runs, replace_table, train_all
from sqvae_speech.training.image import VALID_BATCH, validate
from sqvae_speech.training.image_config import ImageTrainConfig
from sqvae_speech.training.task import Place

HERE = Path(__file__).resolve().parents[1]
CONFIG = HERE / "conf" / "short.yaml"
VQ = ("--model.quantizer.kind", "vq", "--model.quantizer.codebook_update")
# name in the table -> what differs from conf/short.yaml
QUANTIZERS = {
    "SQ-VAE I": (),
    "SQ-VAE II": ("--model.quantizer.covariance", "sample"),
    "SQ-VAE III": ("--model.quantizer.covariance", "position"),
    "SQ-VAE IV": ("--model.quantizer.covariance", "diagonal"),
    "SQ-VAE vMF": ("--model.quantizer.kind", "vmf"),
    "VQ-VAE, EMA": (*VQ, "ema"),
    "VQ-VAE, gradient": (*VQ, "gradient"),
}
SEEDS = {"SQ-VAE I": (0, 1, 2), "VQ-VAE, EMA": (0, 1, 2)}
HEADER = "| quantizer | seeds | MSE (x 1e-3) | PSNR (dB) | perplexity | usage |\n|---|---:|---:|---:|---:|---:|\n"


def all_runs() -> list[Run]:
    """The first seed of every quantizer, then the others."""
    numbered = [(seed, name) for name in QUANTIZERS for seed in SEEDS.get(name, (0,))]
    return [Run(name, CONFIG, QUANTIZERS[name], seed) for seed, name in sorted(numbered, key=lambda pair: pair[0])]


def scores(exp_dir: Path, step: int, test: ImageIndex) -> dict[str, float]:
    """Of a run's last checkpoint on the test split, with deterministic codes."""
    bundle = load_image_model(exp_dir / "checkpoints" / f"step-{step:08d}")
    return validate(bundle.model, image_batches(test, VALID_BATCH), temperature=1.0, place=Place())


def table(exp: Path, step: int, test: ImageIndex) -> str:
    """A row a quantizer, with the mean (and standard deviation) over its seeds that are finished."""
    lines = HEADER
    for name in QUANTIZERS:
        folders = [one.folder(exp) for one in all_runs() if one.name == name]
        done = [path for path in folders if (path / "checkpoints" / f"step-{step:08d}").is_dir()]
        if done:
            print(f"scoring {name}", file=sys.stderr, flush=True)
            found = [scores(path, step, test) for path in done]
            columns = [[row[metric] for row in found] for metric in ("mse", "perplexity", "usage")]
            psnr = [-10 * math.log10(mse) for mse in columns[0]]
            cells = (
                name,
                str(len(done)),
                spread([1e3 * mse for mse in columns[0]], 2),
                spread(psnr, 2),
                spread(columns[1], 0),
                spread([100 * used for used in columns[2]], 0, "%"),
            )
            lines += "| " + " | ".join(cells) + " |\n"
    return lines


def spread(values: Sequence[float], digits: int, unit: str = "") -> str:
    """``mean ± standard deviation``, of one value itself."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "") + unit


def main(argv: Sequence[str] | None = None) -> int:
    """Train, score, write."""
    parser = ArgumentParser(prog="compare.py", description="Compare quantizers in the same network on CIFAR-10.")
    parser.add_argument("--dump", type=Path, required=True, help="folder with train/, dev/ and test/ of shards")
    parser.add_argument("--exp", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", nargs="+", choices=list(QUANTIZERS), help="quantizers to train now")
    parser.add_argument("--table", action="store_true", help="train nothing, write the table of what is finished")
    parser.add_argument("--steps", type=int, help="length of a run; by default conf/short.yaml's")
    options = parser.parse_args(argv)
    step = options.steps or load_config(ImageTrainConfig, CONFIG).training.num_steps
    if not options.table:
        chosen = [one for one in all_runs() if not options.only or one.name in options.only]
        train_all(
            chosen, options.exp, ("--data.train", str(options.dump / "train"), "--training.num_steps", str(step))
        )
    written = table(options.exp, step, ImageIndex.load(options.dump / "test"))
    print(written, end="")
    replace_table(HERE / "RESULTS.md", written)
    first = {one.name: one.folder(options.exp) for one in all_runs() if one.seed == 0}
    done = {name: path for name, path in first.items() if (path / "metrics.jsonl").is_file()}
    draw_runs(done, "mse", HERE / "results" / "mse.png", "MSE, training batches", split="train", smooth=5)
    draw_runs(done, "perplexity", HERE / "results" / "perplexity.png", "perplexity, training", split="train")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
