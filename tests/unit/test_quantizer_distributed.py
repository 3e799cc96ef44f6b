"""Two processes train one quantizer: codebooks stay equal to the last bit, and follow one process on all the data."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sqvae_speech.quantization import (
    GaussianQuantizer,
    GroupedQuantizer,
    Quantizer,
    ResidualQuantizer,
    VectorQuantizer,
    VmfQuantizer,
)

STEPS, BATCH, DIM = 4, 8, 6
QUANTIZERS = {
    "diagonal": lambda: GaussianQuantizer(16, DIM, "diagonal"),
    "vmf": lambda: VmfQuantizer(16, DIM),
    "vq": lambda: VectorQuantizer(16, DIM),
    "vq gradient": lambda: VectorQuantizer(16, DIM, "gradient"),
    "residual": lambda: ResidualQuantizer([GaussianQuantizer(16, DIM) for _ in range(2)]),
    "residual vq": lambda: ResidualQuantizer([VectorQuantizer(16, DIM) for _ in range(2)]),
    "residual vq, shared": lambda: ResidualQuantizer(
        [VectorQuantizer(16, DIM) for _ in range(2)], shared_codebook=True
    ),
    "grouped": lambda: GroupedQuantizer([GaussianQuantizer(16, DIM // 2) for _ in range(2)]),
}


class Model(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        torch.manual_seed(0)
        self.quantizer: Quantizer = QUANTIZERS[name]()
        self.encoder = nn.Linear(DIM, DIM + self.quantizer.log_var_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, log_var = self.encoder(x).split((DIM, self.quantizer.log_var_channels), dim=-1)
        out = self.quantizer(z, log_var if self.quantizer.log_var_channels else None)
        return out.loss + (out.quantized - x).square().sum() / len(x)


def train(model: nn.Module, rank: int, world_size: int) -> None:
    generator = torch.Generator().manual_seed(5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    torch.manual_seed(100 + rank)  # every process has its own noise
    for _ in range(STEPS):
        x = torch.randn(BATCH, 10, DIM, generator=generator)
        optimizer.zero_grad()
        model(x[rank::world_size]).backward()
        optimizer.step()


def work(folder: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    states = {}
    for name in QUANTIZERS:
        model = Model(name)
        # the averages of the EMA codebook are not to be sent by rank 0: they are the same everywhere by themselves
        train(DistributedDataParallel(model, broadcast_buffers=False), rank, world_size)
        states[name] = model.state_dict()
    torch.save(states, Path(folder) / f"{rank}.pt")
    del model
    gc.collect()  # what wraps a model holds the group, whose threads must end before the interpreter does
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_codebooks_of_two_processes_are_equal_to_the_last_bit(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    root = Path(__file__).parents[2]
    paths = f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in QUANTIZERS:
        start = Model(name).state_dict()
        codebooks = [key for key in start if key.endswith("codebook")]
        assert codebooks
        assert not any(torch.equal(first[name][key], start[key]) for key in codebooks), name
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), f"{name}: {key}"
    # without noise, two processes also do what one does on the whole batch
    for name in ("vq", "vq gradient", "residual vq", "residual vq, shared"):
        model = Model(name)
        train(model, 0, 1)
        torch.testing.assert_close(dict(model.state_dict()), dict(first[name]), rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    work(sys.argv[1])
