"""Where the Triton kernels say they can run, and that nothing imports Triton before it is needed."""

import subprocess
import sys

import pytest
import torch

from sqvae_speech.quantization import fused, kernels


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert kernels.unavailable(torch.device("cuda")) == "Triton is not installed"
    with pytest.raises(ValueError, match="Triton is not installed; use backend='auto'"):
        fused.choose_backend(torch.device("cpu"), "triton")


def test_on_a_cpu(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "TRITON_INTERPRET=1" in kernels.unavailable(torch.device("cpu"))
    assert "'mps'" in kernels.unavailable(torch.device("mps"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.unavailable(torch.device("cpu")) is None


@pytest.mark.parametrize(("capability", "usable"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_on_gpus(monkeypatch, capability, usable):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (kernels.unavailable(torch.device("cuda")) is None) == usable


def test_the_package_does_not_import_triton():
    program = """
import sys
sys.modules["triton"] = None  # any import of it fails
import torch
from sqvae_speech.quantization import GaussianQuantizer
GaussianQuantizer(8, 4, "global")(torch.randn(2, 3, 4)).loss.backward()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
