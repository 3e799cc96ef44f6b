"""Train a model. The same program under ``sqvae-speech train`` and any launcher:

accelerate launch --num_processes 4 -m sqvae_speech.bin.train --config conf/train.yaml --exp-dir exp/a
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from sqvae_speech.bin._cli import ArgumentParser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Parse options and train; further ``--section.key value`` words override the configuration."""
    parser = ArgumentParser(
        prog="sqvae-speech train",
        description="Train a model on shards; resumes from the latest checkpoint in --exp-dir.",
        epilog="Any key of the configuration can be given too: --training.num_steps 2000 --model.channels 256",
    )
    parser.add_argument("--config", help="YAML file; without one the published settings")
    parser.add_argument("--exp-dir", required=True, help="folder of the run: checkpoints, metrics, plots")
    parser.add_argument("--no-resume", action="store_true", help="refuse a folder that has checkpoints")
    parser.add_argument("--no-progress", action="store_true", help="no progress line")
    parser.add_argument(
        "--tracker",
        action="append",
        default=[],
        metavar="NAME",
        help="also report to wandb, mlflow or another tracker that Accelerate knows (may be repeated)",
    )
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    options, overrides = parser.parse_known_args(argv)

    from sqvae_speech.config import dump_yaml, load_config
    from sqvae_speech.training.tasks import task_of

    config: Any = load_config(task_of(options.config, overrides).config_class, options.config, overrides)
    if options.tracker:
        names = tuple(dict.fromkeys((*config.training.trackers, *options.tracker)))
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, trackers=names))
    if options.print_config:
        print(dump_yaml(config), end="")
        return 0

    from sqvae_speech.training.interruption import Interrupted
    from sqvae_speech.training.trainer import train

    try:
        checkpoint = train(config, options.exp_dir, resume=not options.no_resume, progress=not options.no_progress)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return interrupted.exit_code
    print(checkpoint)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
