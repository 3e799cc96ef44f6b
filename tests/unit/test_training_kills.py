"""A run that is killed again and again, at random moments, ends as if it had never been."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # what training imports late: once here, not in each of the lives
import torch.distributed.fsdp
from loader_fixtures import write_synthetic_shards
from safetensors.torch import load_file

from sqvae_speech.bin.train import main
from sqvae_speech.training.metrics_log import read_metrics

NUM_STEPS = 182
KILLS = 25
OPTIONS = (
    "--no-progress --model.channels 16 --model.decoder_hidden 8 --model.quantizer.codebook_size 16 "
    f"--model.quantizer.dim 8 --training.num_steps {NUM_STEPS} --training.batch_size 6 --training.accumulation 2 "
    "--training.log_interval 1 --training.valid_interval 40 --training.checkpoint_interval 4 --training.num_plots 0 "
    "--training.codebook_init data --training.ema_decay 0.9 --training.schedule cosine --data.num_workers 2"
).split()


def life(shards: Path, exp_dir: Path) -> None:
    data = ["--exp-dir", str(exp_dir), "--data.train", str(shards), "--data.valid", str(shards)]
    os._exit(main([*data, *OPTIONS]))


def begin(*arguments) -> multiprocessing.process.BaseProcess:
    """A fork of this process, which has imported everything already and computed nothing."""
    process = multiprocessing.get_context("fork").Process(target=life, args=arguments)
    process.start()
    return process


def steps_done(exp_dir: Path) -> int:
    path = exp_dir / "metrics.jsonl"
    return max((row["step"] for row in read_metrics(path)), default=0) if path.exists() else 0


@pytest.mark.slow
def test_25_kills_at_random_moments(tmp_path):
    """In a process of its own: one that has computed with threads cannot be forked."""
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]


def kill_again_and_again(tmp_path: Path) -> None:
    shards = write_synthetic_shards(tmp_path / "shards", [[40, 50, 36, 60], [45, 41, 38]]).folder
    process = begin(shards, tmp_path / "whole")
    process.join(300)
    assert process.exitcode == 0
    rng = np.random.default_rng(0)
    at = [0]
    for life_number in range(1, KILLS + 1):
        process = begin(shards, tmp_path / "killed")
        # at a step on the way to this life's share of the run, or before the first; and then at any moment of it
        target = rng.integers(at[-1], NUM_STEPS * life_number // (KILLS + 1) + 1)
        while process.exitcode is None and steps_done(tmp_path / "killed") < target:
            process.join(0.005)
        process.join(rng.uniform(0.0, 0.05))
        assert process.exitcode is None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        latest = tmp_path / "killed" / "checkpoints" / "latest"
        at.append(int(latest.read_text().removeprefix("step-")) if latest.exists() else 0)
    assert at == sorted(at)
    assert len(set(at)) > 5  # lives got somewhere
    process = begin(shards, tmp_path / "killed")
    process.join(300)
    assert process.exitcode == 0
    whole, killed = (
        [(row["split"], row["step"], row["loss"]) for row in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "killed")
    )
    assert whole == killed
    last = f"checkpoints/step-{NUM_STEPS:08d}/model.safetensors"
    expected, got = (load_file(tmp_path / name / last) for name in ("whole", "killed"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


if __name__ == "__main__":
    kill_again_and_again(Path(sys.argv[1]))
