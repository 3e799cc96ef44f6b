"""Train every quantizer in the same network on CIFAR-10, and write the table of RESULTS.md.

python egs/cifar10/local/compare.py --dump egs/cifar10/dump --exp egs/cifar10/exp

Runs that are finished take no time, those that were interrupted go on: the command can be given again at any time,
and writes what there is. --only names runs to train now; --table trains nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.config import load_config
from sqvae_speech.evaluation.saved_scores import image_scores
from sqvae_speech.training.comparison import Run, draw_runs, markdown_table, replace_table, spread, train_all
from sqvae_speech.training.image_config import ImageTrainConfig

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
HEADER = ("quantizer", "seeds", "MSE (x 1e-3)", "PSNR (dB)", "SSIM", "perplexity", "usage")


def all_runs() -> list[Run]:
    """The first seed of every quantizer, then the others."""
    numbered = [(seed, name) for name in QUANTIZERS for seed in SEEDS.get(name, (0,))]
    return [Run(name, CONFIG, QUANTIZERS[name], seed) for seed, name in sorted(numbered, key=lambda pair: pair[0])]


def row(name: str, exp: Path, step: int, test: Path) -> list[str] | None:
    """Mean (and standard deviation) over a quantizer's seeds that are finished, with deterministic codes."""
    found = []
    for one in all_runs():
        checkpoint = one.finished(exp, step)
        if one.name == name and checkpoint is not None:
            print(f"scoring {checkpoint}", file=sys.stderr, flush=True)
            found.append(image_scores(checkpoint, test, one.folder(exp) / "scores.json"))
    if not found:
        return None
    pixels, codebook = ([one[part] for one in found] for part in ("pixels", "codebook"))
    return [
        name,
        str(len(found)),
        spread([1e3 * one["mse"] for one in pixels], 2),
        spread([one["psnr"] for one in pixels], 2),
        spread([one["ssim"] for one in pixels], 3),
        spread([one["perplexity"] for one in codebook], 0),
        spread([100 * one["usage"] for one in codebook], 0, "%"),
    ]


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
    rows = [row(name, options.exp, step, options.dump / "test") for name in QUANTIZERS]
    written = markdown_table(HEADER, [cells for cells in rows if cells])
    print(written, end="")
    replace_table(HERE / "RESULTS.md", written)
    first = {one.name: one.folder(options.exp) for one in all_runs() if one.seed == 0}
    done = {name: path for name, path in first.items() if (path / "metrics.jsonl").is_file()}
    draw_runs(done, "mse", HERE / "results" / "mse.png", "MSE, training batches", split="train", smooth=5)
    draw_runs(done, "perplexity", HERE / "results" / "perplexity.png", "perplexity, training", split="train")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
