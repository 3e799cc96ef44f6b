"""Batch normalisation of the real positions of the global batch: values, gradients, running statistics."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sqvae_speech.models.normalization import BatchNorm2d
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.quantization import QuantizerConfig


def layer(channels: int = 3) -> BatchNorm2d:
    torch.manual_seed(1)
    norm = BatchNorm2d(channels).double()
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias)
    return norm


def test_without_a_mask_it_is_that_of_torch():
    ours, theirs = layer(), nn.BatchNorm2d(3).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 1, 7, dtype=torch.float64)
    assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_padding_counts_in_nothing():
    norm, x = layer(), torch.randn(2, 3, 1, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)[:, None, None]
    y = norm(x, mask)
    real = torch.cat([x[0, :, 0, :4], x[1, :, 0, :2]], dim=1).detach().requires_grad_()  # (C, 6): one row a channel
    expected = (real - real.mean(1, keepdim=True)) / (real.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    expected = expected * norm.weight[:, None] + norm.bias[:, None]
    got = torch.cat([y[0, :, 0, :4], y[1, :, 0, :2]], dim=1)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.1 * real.mean(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * real.var(1), rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(got)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(torch.cat([x.grad[0, :, 0, :4], x.grad[1, :, 0, :2]], dim=1), real.grad)
    assert not x.grad[0, :, 0, 4:].any()
    assert not x.grad[1, :, 0, 2:].any()


def test_padding_may_hold_anything():
    mask = torch.tensor([[1, 1, 1, 0]], dtype=torch.bool)[:, None, None]
    x = torch.randn(1, 3, 1, 4, dtype=torch.float64)
    broken = x.masked_fill(~mask, float("nan"))
    assert torch.equal(layer()(x, mask)[..., :3], layer()(broken, mask)[..., :3])


# ---- several processes


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mels of 5 utterances, in float64, speakers and lengths; the rest is padding."""
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(5, 80, 40, dtype=torch.float64, generator=generator)
    return mel, torch.tensor([0, 1, 2, 0, 1]), torch.tensor([40, 31, 22, 37, 12])


def model(likelihood: str, kind: str) -> SpeechModel:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(kind=kind, codebook_update="gradient", codebook_size=16, dim=8, init_variance=0.5)
    return SpeechModel(SpeechModelConfig(16, 8, 8, 0.0, likelihood, quantizer=quantizer), 80, 3).double().train()


CASES = [("arelbo", "gaussian"), ("gaussian", "gaussian"), ("arelbo", "vq"), ("arelbo", "vmf")]


def gradients(wrapped: nn.Module, part: slice) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    mel, speaker, lengths = (tensor[part] for tensor in batch())
    mel = mel[..., : int(lengths.max())]  # a process pads to its own longest
    # without noise, which differs from process to process
    out = wrapped(mel, speaker, lengths, sample=False)
    out.loss.backward()
    bare = wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped
    return {name: p.grad for name, p in bare.named_parameters() if p.grad is not None}, dict(bare.named_buffers())


def work(folder: str) -> None:
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    results = []
    for case in CASES:
        wrapped = DistributedDataParallel(model(*case), find_unused_parameters=True)
        results.append(gradients(wrapped, slice(0, 2) if rank == 0 else slice(2, 5)))
        del wrapped
        gc.collect()
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_gradient_of_two_processes_is_that_of_one_with_the_whole_batch(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for case, (one, buffers), (two, _) in zip(CASES, first, second, strict=True):
        expected, expected_buffers = gradients(model(*case), slice(None))
        assert one.keys() == expected.keys() == two.keys()
        for name, gradient in expected.items():
            scale = float(gradient.abs().max())
            assert scale > 0, name
            torch.testing.assert_close(one[name], gradient, rtol=1e-6, atol=1e-6 * scale, msg=f"{case} {name}")
            assert torch.equal(one[name], two[name])
        for name, buffer in expected_buffers.items():
            torch.testing.assert_close(buffers[name], buffer, rtol=1e-9, atol=1e-9, msg=f"{case} {name}")


if __name__ == "__main__":
    work(*sys.argv[1:])
