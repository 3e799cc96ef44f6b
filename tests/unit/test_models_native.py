"""Layers of network.cpp, in training on a CPU, against PyTorch's own."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sqvae_speech.models import native, recurrence, winograd
from sqvae_speech.models.modules import ConvEncoder, RecurrentDecoder
from sqvae_speech.models.normalization import BatchNorm2d

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
CHANNELS = winograd.MIN_CHANNELS


def set_backend(monkeypatch, name: str) -> None:
    # a compiled graph or a test before this one must not decide
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, name)


def results(monkeypatch, backend: str, module: nn.Module, *inputs) -> list[Tensor]:
    """Output, and gradients of a cosine of it: of the first input and of the parameters."""
    set_backend(monkeypatch, backend)
    module.zero_grad()
    first = inputs[0].detach().requires_grad_()
    output = module(first, *inputs[1:])
    output.double().cos().mul(torch.arange(output.numel()).view_as(output) % 7).sum().backward()
    return [output.detach(), first.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


def deviation(got: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error of the norms."""
    return max(
        float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(got, expected, strict=True)
    )


class Convolution(nn.Module):
    def __init__(self, kernel: int, stride: int, padding: int, channels: int = CHANNELS):
        super().__init__()
        self.conv = nn.Conv2d(channels, CHANNELS, (1, kernel), (1, stride), (0, padding), bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return winograd.convolve(self.conv, x)


FORMS = [(3, 1, 0), (3, 1, 1), (4, 2, 1), (2, 1, 0), (6, 2, 2), (6, 3, 1)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("frames", [16, 21])
@pytest.mark.parametrize(("kernel", "stride", "padding"), FORMS)
def test_convolutions_in_float64(monkeypatch, kernel, stride, padding, frames, threads):
    torch.manual_seed(0)
    module = Convolution(kernel, stride, padding, CHANNELS + 6).double()
    x = torch.randn(3, CHANNELS + 6, 1, frames, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got, expected = (results(monkeypatch, backend, module, x) for backend in ("native", "torch"))
    finally:
        torch.set_num_threads(before)
    assert got[0].shape == expected[0].shape
    assert deviation(got, expected) < 1e-13


@pytest.mark.parametrize(("kernel", "stride", "padding"), FORMS)
def test_convolutions_round_little_more_than_by_the_definition(monkeypatch, kernel, stride, padding):
    """float32: at most four times its error; products in bfloat16: at most twice that of bfloat16 convolutions."""
    torch.manual_seed(0)
    module, x = Convolution(kernel, stride, padding), torch.randn(8, CHANNELS, 1, 32)
    exact = results(monkeypatch, "torch", copy.deepcopy(module).double(), x.double())
    for half, limit in ((False, 4), (True, 2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            got, plain = (deviation(results(monkeypatch, name, module, x), exact) for name in ("native", "torch"))
        assert plain / 4 < got < limit * plain, (half, got, plain)
        assert (got > 1e-4) == half


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("taps", winograd.TILES)
def test_schemes_multiply_polynomials(taps, half):
    outputs, of_taps, inputs = winograd.scheme(taps, half)
    size = len(outputs)
    assert outputs.shape[1] == len(of_taps) == len(inputs) == size + taps - 1
    torch.manual_seed(0)
    kernel, x = torch.randn(taps, dtype=torch.float64), torch.randn(size + taps - 1, dtype=torch.float64)
    expected = torch.stack([(kernel * x[i : i + taps]).sum() for i in range(size)])
    torch.testing.assert_close(outputs @ ((of_taps @ kernel) * (inputs @ x)), expected, rtol=1e-12, atol=1e-12)


def test_what_is_not_suitable_is_left_to_pytorch(monkeypatch):
    set_backend(monkeypatch, "native")
    calls = []
    monkeypatch.setattr(winograd, "_convolve", lambda *args: calls.append(args))
    x = torch.randn(2, CHANNELS, 1, 12)
    for conv, of in (
        (nn.Conv2d(CHANNELS, CHANNELS, (1, 3)), x),  # a bias
        (nn.Conv2d(CHANNELS, CHANNELS, (1, 5), bias=False), x),
        (nn.Conv2d(CHANNELS, CHANNELS, (3, 3), padding=(1, 0), bias=False), x),
        (nn.Conv2d(CHANNELS, CHANNELS, (1, 3), dilation=(1, 2), bias=False), x),
        (nn.Conv2d(CHANNELS, CHANNELS, (1, 3), groups=2, bias=False), x),
        (nn.Conv2d(CHANNELS // 2, CHANNELS, (1, 3), bias=False), x[:, : CHANNELS // 2]),
        (nn.Conv2d(CHANNELS, CHANNELS, (1, 3), bias=False).eval(), x),
        (nn.Conv2d(CHANNELS, CHANNELS, (1, 3), bias=False).bfloat16(), x.bfloat16()),
    ):
        torch.testing.assert_close(winograd.convolve(conv, of), conv(of))
    with torch.no_grad():
        winograd.convolve(nn.Conv2d(CHANNELS, CHANNELS, (1, 3), bias=False), x)
    assert not calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("lengths", [None, (7, 2, 5)])
def test_the_decoder(monkeypatch, lengths, threads, dtype):
    torch.manual_seed(0)
    decoder = RecurrentDecoder(6, 4, 5, 7, 9).to(dtype)
    inputs = torch.randn(3, 7, 6, dtype=dtype), torch.tensor([0, 3, 1]), lengths and torch.tensor(lengths)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got, expected = (results(monkeypatch, backend, decoder, *inputs) for backend in ("native", "torch"))
    finally:
        torch.set_num_threads(before)
    assert deviation(got, expected) < (1e-14 if dtype == torch.float64 else 1e-6)


def test_recurrent_units_far_from_zero():
    """Gates that are all but open or shut, where exponentials leave the range of float32."""
    torch.manual_seed(0)
    rnn = nn.GRU(3, 4, bidirectional=True)
    x = torch.randn(6, 5, 3) * torch.logspace(-3, 4, 5)[:, None]
    gates = nn.functional.linear(x, *recurrence.input_weights(rnn, 0))
    torch.testing.assert_close(recurrence.run_layers(rnn, gates), rnn(x)[0], rtol=1e-5, atol=1e-6)


class Normalized(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = BatchNorm2d(channels)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.norm.rectified(x.contiguous(memory_format=torch.channels_last), mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_normalization_and_relu(monkeypatch, masked, threads, dtype):
    torch.manual_seed(0)
    module, x = Normalized(11).to(dtype), 3 + torch.randn(5, 11, 1, 37, dtype=dtype)
    mask = torch.rand(5, 1, 1, 37) > 0.4 if masked else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = {}
        for backend in ("native", "torch"):
            own = copy.deepcopy(module)
            runs[backend] = [*results(monkeypatch, backend, own, x, mask), *own.norm.buffers()]
    finally:
        torch.set_num_threads(before)
    assert deviation(runs["native"], runs["torch"]) < (1e-12 if dtype == torch.float64 else 2e-6)


def test_padding_may_hold_anything(monkeypatch):
    set_backend(monkeypatch, "native")
    torch.manual_seed(0)
    module, mask = Normalized(8), torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)[:, None, None]
    found = []
    for filler in (0.0, torch.nan):
        torch.manual_seed(1)
        x = torch.randn(2, 8, 1, 3).masked_fill(~mask, filler).requires_grad_()
        out = module(x, mask)
        out.square().sum().backward()
        assert (out[~mask.expand_as(out)] == 0).all()
        assert (x.grad[~mask.expand_as(out)] == 0).all()
        found.append((out, x.grad))
    assert all(map(torch.equal, *found))


def test_the_encoder_takes_the_fast_way(monkeypatch):
    encoder = ConvEncoder(CHANNELS, CHANNELS, 4)
    x = torch.randn(2, CHANNELS, 12)
    calls = []
    original = winograd._convolve
    monkeypatch.setattr(winograd, "_convolve", lambda *args: calls.append(args) or original(*args))
    for backend, number in (("torch", 0), ("native", 5), ("auto", 5)):
        set_backend(monkeypatch, backend)
        calls.clear()
        encoder(x)
        assert len(calls) == number
    calls.clear()
    encoder.eval()(x)
    assert not calls, "inference has PyTorch's layers"


def test_backends_that_are_not(monkeypatch):
    set_backend(monkeypatch, "fast")
    with pytest.raises(ValueError, match="must be one of auto, native, torch, got 'fast'"):
        native.usable(torch.zeros(1))
    monkeypatch.setattr(native, "library", lambda source: "it needs a C++ compiler")
    set_backend(monkeypatch, "native")
    with pytest.raises(ValueError, match=r"cannot run: it needs a C\+\+ compiler; use .*=auto"):
        native.usable(torch.zeros(1))
    set_backend(monkeypatch, "auto")
    assert not native.usable(torch.zeros(1))
