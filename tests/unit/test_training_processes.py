"""Several processes: launchers on two machines (here: one), signals, another number of processes after a resume."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from loader_fixtures import write_synthetic_shards

from sqvae_speech.bin.train import main
from sqvae_speech.data.loader import SegmentLoader
from sqvae_speech.training.metrics_log import read_metrics

pytestmark = pytest.mark.slow
OPTIONS = (
    "--no-progress --model.channels 16 --model.decoder_hidden 8 --model.quantizer.codebook_size 16 "
    "--model.quantizer.dim 8 --training.batch_size 4 --training.log_interval 1 --training.num_plots 0"
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
MODULE = ["-m", "sqvae_speech.bin.train"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_synthetic_shards(tmp_path_factory.mktemp("shards"), [[40, 50, 36, 60], [45, 41, 38]]).folder


def words(shards: Path, exp_dir: Path, num_steps: int, more: str = "") -> list[str]:
    return [
        "--data.train",
        str(shards),
        "--exp-dir",
        str(exp_dir),
        *f"{OPTIONS} --training.num_steps {num_steps} {more}".split(),
    ]


def begin(command: list[str]) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output[-3000:]
    return output


def losses(exp_dir: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(exp_dir / "metrics.jsonl")]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_launchers_make_one_run(shards, tmp_path):
    port = str(free_port())
    # batches of different numbers of latents: processes must agree when the codes have enough to start from
    more = "--training.codebook_init data --data.batching utterances --data.batch_frames 130"
    launchers = []
    for rank in ("0", "1"):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no"]
        command += ["--dynamo_backend", "no", "--num_machines", "2", "--num_processes", "2", "--machine_rank", rank]
        command += ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
        launchers.append(begin([*command, *MODULE, *words(shards, tmp_path / "machines", 5, more)]))
    for launcher in launchers:
        finish(launcher)
    one = [
        *TORCHRUN,
        "--standalone",
        "--nproc_per_node",
        "2",
        *MODULE,
        *words(shards, tmp_path / "processes", 5, more),
    ]
    finish(begin(one))
    assert losses(tmp_path / "machines") == losses(tmp_path / "processes")
    assert [step for step, _ in losses(tmp_path / "machines")] == [1, 2, 3, 4, 5]


def test_a_signal_stops_all_processes_at_one_step_and_one_process_goes_on(shards, tmp_path):
    exp_dir = tmp_path / "exp"
    launcher = begin([*TORCHRUN, "--standalone", "--nproc_per_node", "2", *MODULE, *words(shards, exp_dir, 100_000)])
    deadline = time.monotonic() + 200
    while not (exp_dir / "metrics.jsonl").exists() or not losses(exp_dir):
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    output = launcher.communicate(timeout=120)[0]
    assert launcher.returncode != 0  # a script that waits for it must not take the run for finished
    steps = re.findall(r"SIGTERM: stopped after step (\d+)", output)
    assert len(steps) == 2, output[-3000:]
    assert steps[0] == steps[1]
    step = int(steps[0])
    latest = exp_dir / "checkpoints" / f"step-{step:08d}"
    state = torch.load(latest / "training_state.pt", weights_only=True)
    assert len(state["random"]) == 2
    # examples seen by nobody or twice: none
    loader = SegmentLoader(shards, batch_size=4, segment_frames=34, seed=0)
    loader.load_state_dict(state["data"])
    assert loader.position == 4 * step
    assert main(words(shards, exp_dir, step + 3)) == 0
    assert [number for number, _ in losses(exp_dir)] == list(range(1, step + 4))
    state = torch.load(exp_dir / "checkpoints" / f"step-{step + 3:08d}" / "training_state.pt", weights_only=True)
    assert state["data"]["position"] == 4 * (step + 3)
    assert len(state["random"]) == 1
