#!/usr/bin/env python3
"""Steps and images per second of training the published image model, against a plain eager loop of the same network.

    OMP_NUM_THREADS=1 python tools/bench_train_image.py --output benchmarks/results/train_image_cpu

writes train_image_cpu.md and train_image_cpu.json. The package's step is its trainer's, with loader and log; the
plain loop (tools/plain_image.py) has its images in memory. The two take turns, so that other load touches both.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_common import machine_facts, synchronizer, write_results


def main() -> int:
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(args, Path(folder))
    document = {"machine": machine_facts(args.device), "settings": settings_of(args), "seconds": seconds}
    write_results(args.output, document, report(document))
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/train_image"), help="without suffix")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=4000, help="of the set")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each")
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options, without places on this machine."""
    return {**vars(args), "output": args.output.name}


def package_step(folder: Path, pixels: Any, batch_size: int) -> Callable[[], None]:
    """A step of the package's trainer on shards of ``pixels`` (N, H, W, 3)."""
    from sqvae_speech.data.image_corpora.common import array_items, write_array, write_splits
    from sqvae_speech.data.image_shards import write_image_shards
    from sqvae_speech.models.image import ImageModelConfig
    from sqvae_speech.quantization import QuantizerConfig
    from sqvae_speech.training.image_config import ImageTrainConfig, ImageTrainingConfig
    from sqvae_speech.training.shards_config import ShardsConfig
    from sqvae_speech.training.trainer import Trainer

    items = array_items(write_array(folder, "train", pixels), "image", ["any"] * len(pixels))
    write_splits({"train": items}, [], folder)
    write_image_shards(folder / "train", folder / "dump", progress=False)
    quantizer = QuantizerConfig("gaussian", 512, 64, "global", init_variance=20.0, variance_sum=True)
    config = ImageTrainConfig(
        data=ShardsConfig(train=str(folder / "dump")),
        model=ImageModelConfig("32x32", quantizer=quantizer),
        training=ImageTrainingConfig(batch_size=batch_size),
    )
    trainer = Trainer(config, folder / "exp", resume=False, progress=False)
    trainer.model.train()
    batches = iter(trainer.task.loader)
    return lambda: (trainer._train_step(next(batches)), None)[1]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds a step, of time and of the processor's, turn by turn."""
    import numpy as np
    import torch
    from plain_image import PlainLoop

    pixels = np.random.default_rng(0).integers(256, size=(args.images, 32, 32, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(args.device).float() / 255
    steps = {
        "package": package_step(folder, pixels, args.batch_size),
        "plain loop": PlainLoop(images.contiguous(), args.batch_size).step,
    }
    wait, steps_a_turn = synchronizer(args.device), 1 if args.device == "cpu" else 20
    seconds: dict[str, dict[str, list[float]]] = {name: {"time": [], "processor": []} for name in steps}
    for number in range(3 + args.rounds):
        for name, step in steps.items():
            wait()
            start, processor = time.perf_counter(), time.process_time()
            for _ in range(steps_a_turn):
                step()
            wait()
            if number >= 3:  # the first compile, autotune, warm caches
                seconds[name]["time"].append((time.perf_counter() - start) / steps_a_turn)
                seconds[name]["processor"].append((time.process_time() - processor) / steps_a_turn)
    return seconds


def report(document: dict[str, Any]) -> str:
    """The table in Markdown."""
    facts, settings, seconds = document["machine"], document["settings"], document["seconds"]
    lines = [
        "# Training of the image model: time of a step",
        "",
        f"The published 32 x 32 network (type I, K 512, D 64), batches of {settings['batch_size']} images. "
        f"{facts['processor']}, {facts['threads']} threads, PyTorch {facts['torch']}; load at the end "
        f"{facts['load_average'][0]:.1f}. Medians over {settings['rounds']} turns, also of ratios.",
        "",
        f"Command: `OMP_NUM_THREADS={facts['threads']} python tools/bench_train_image.py "
        f"--device {settings['device']} --batch-size {settings['batch_size']} --rounds {settings['rounds']} "
        f"--output benchmarks/results/{settings['output']}`",
        "",
        "| | step (ms) | processor (ms) | images/s | images a processor second |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, taken in seconds.items():
        total, processor = statistics.median(taken["time"]), statistics.median(taken["processor"])
        rates = f"{settings['batch_size'] / total:,.0f} | {settings['batch_size'] / processor:,.0f}"
        lines.append(f"| {name} | {1e3 * total:.1f} | {1e3 * processor:.1f} | {rates} |")
    ours, plain = seconds["package"], seconds["plain loop"]
    ratios = [
        statistics.median(b / a for a, b in zip(ours[unit], plain[unit], strict=True))
        for unit in ("time", "processor")
    ]
    lines.append(f"| plain loop / package | {ratios[0]:.2f} | {ratios[1]:.2f} | | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
