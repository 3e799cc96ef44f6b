"""Train vMF and categorical likelihoods in the same network, and write the table of RESULTS.md.

python egs/celebamask_hq/local/compare.py --exp egs/celebamask_hq/exp/compare

Without --dump, label maps are drawn by make_faces.py below --exp first. Runs that are finished take no time.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from make_faces import make_faces

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.config import load_config
from sqvae_speech.data.image_corpora.celebamask_hq import prepare_celebamask_hq
from sqvae_speech.data.image_shards import write_image_shards
from sqvae_speech.data.shard_folder import is_shards
from sqvae_speech.evaluation.saved_scores import image_scores
from sqvae_speech.training.comparison import Run, draw_runs, markdown_table, replace_table, spread, train_all
from sqvae_speech.training.image_config import ImageTrainConfig

HERE = Path(__file__).resolve().parents[1]
CONFIG = HERE / "conf" / "short.yaml"
CATEGORICAL = ("--model.likelihood", "categorical", "--model.activation", "none", "--model.quantizer.kind")
RUNS = [
    Run("SQ-VAE vMF, vMF likelihood", CONFIG),
    Run("SQ-VAE I, categorical", CONFIG, (*CATEGORICAL, "gaussian", "--model.quantizer.covariance", "global")),
    Run("VQ-VAE (EMA), categorical", CONFIG, (*CATEGORICAL, "vq")),
]
HEADER = ("model", "accuracy", "mIoU", "mIoU of small classes", "perplexity", "usage")
# those of which a face has few pixels, where it has them at all
SMALL = ("nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip")
FACES, SIZE, SEED = 2000, 128, 0


def stand_in(folder: Path) -> Path:
    """Shards of drawn faces at 64 x 64; made once."""
    dump = folder / "dump"
    if not is_shards(dump / "test"):
        make_faces(folder / "faces", FACES, SIZE, SEED)
        prepare_celebamask_hq(folder / "faces", folder / "data")
        for split in ("train", "test"):
            write_image_shards(folder / "data" / split, dump / split, size=(64, 64), progress=False)
    return dump


def row(one: Run, exp: Path, step: int, test: Path) -> list[str] | None:
    """Scores of a run's last checkpoint, with deterministic codes."""
    checkpoint = one.finished(exp, step)
    if checkpoint is None:
        return None
    scores = image_scores(checkpoint, test, one.folder(exp) / "scores.json")
    labels, codebook = scores["labels"], scores["codebook"]
    small = [labels["iou"][name] for name in SMALL if labels["iou"].get(name) is not None]
    return [
        one.name,
        f"{100 * labels['accuracy']:.2f}%",
        f"{100 * labels['miou']:.1f}%",
        spread([100 * sum(small) / len(small)], 1, "%"),
        f"{codebook['perplexity']:.1f}",
        f"{codebook['used']}/{codebook['codebook_size']}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, score, write."""
    parser = ArgumentParser(prog="compare.py", description="Compare likelihoods of label maps in the same network.")
    parser.add_argument("--dump", type=Path, help="folder with train/ and test/ of shards (default: drawn faces)")
    parser.add_argument("--exp", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--table", action="store_true", help="train nothing, write the table of what is finished")
    options = parser.parse_args(argv)
    step = load_config(ImageTrainConfig, CONFIG).training.num_steps
    dump = options.dump or stand_in(options.exp)
    if not options.table:
        train_all(RUNS, options.exp, ("--data.train", str(dump / "train")))
    rows = [row(one, options.exp, step, dump / "test") for one in RUNS]
    written = markdown_table(HEADER, [cells for cells in rows if cells])
    print(written, end="")
    replace_table(HERE / "RESULTS.md", written)
    folders = {one.name: one.folder(options.exp) for one in RUNS if one.finished(options.exp, step)}
    draw_runs(
        folders, "accuracy", HERE / "results" / "accuracy.png", "accuracy, training batches", split="train", smooth=4
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
