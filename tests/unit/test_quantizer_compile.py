"""Quantizers under torch.compile, torch.export, autocast, deterministic mode and with large codebooks."""

import pytest
import torch
from torch import nn

from sqvae_speech.quantization import (
    GaussianQuantizer,
    GroupedQuantizer,
    Quantizer,
    ResidualQuantizer,
    VectorQuantizer,
    VmfQuantizer,
    functional,
)

SIZE, DIM = 24, 4
QUANTIZERS = {
    "global": (lambda: GaussianQuantizer(SIZE, DIM, "global"), None),
    "sample": (lambda: GaussianQuantizer(SIZE, DIM, "sample"), (1, 1)),
    "position": (lambda: GaussianQuantizer(SIZE, DIM, "position"), (5, 1)),
    "diagonal": (lambda: GaussianQuantizer(SIZE, DIM, "diagonal"), (5, DIM)),
    "vmf": (lambda: VmfQuantizer(SIZE, DIM), None),
    "vq": (lambda: VectorQuantizer(SIZE, DIM), None),
    "vq gradient": (lambda: VectorQuantizer(SIZE, DIM, "gradient"), None),
    "residual": (lambda: ResidualQuantizer([GaussianQuantizer(SIZE, DIM) for _ in range(3)]), (5, DIM)),
    "residual vq, shared": (
        lambda: ResidualQuantizer([VectorQuantizer(SIZE, DIM) for _ in range(3)], shared_codebook=True),
        None,
    ),
    "stage dropout": (
        lambda: ResidualQuantizer([GaussianQuantizer(SIZE, DIM, "global") for _ in range(3)], stage_dropout=0.5),
        None,
    ),
    "grouped": (lambda: GroupedQuantizer([GaussianQuantizer(SIZE, DIM // 2) for _ in range(2)]), (5, DIM)),
}


def build(name: str, batch: int = 3) -> tuple[Quantizer, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(0)
    make, head = QUANTIZERS[name]
    log_var = None if head is None else torch.randn(batch, *head)
    return make(), torch.randn(batch, 5, DIM), log_var


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", QUANTIZERS)
def test_compiles_whole_and_stays_compiled(name):
    """No graph break, the numbers of eager mode, and no compiling again for the temperature of every step."""
    quantizer, z, log_var = build(name)
    leaves = [x.requires_grad_() for x in (z, log_var) if x is not None]
    mask = torch.rand(3, 5) > 0.2
    results = []
    for function in (quantizer, torch.compile(quantizer, backend="aot_eager", fullgraph=True)):
        for step in range(6):
            quantizer.zero_grad()
            torch.manual_seed(step)
            out = function(z, log_var, temperature=0.9**step, mask=mask)
            (out.loss + out.quantized.square().sum()).backward()
        gradients = [x.grad.clone() for x in (*leaves, *quantizer.parameters()) if x.grad is not None]
        for leaf in leaves:
            leaf.grad = None
        results.append((out.quantized.detach(), out.indices, out.loss.detach(), gradients))
        quantizer.load_state_dict(build(name)[0].state_dict())  # moving averages have moved
    torch.testing.assert_close(*results)
    # one graph for the first temperature, one for any
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_for_any_batch_size():
    quantizer, _, _ = build("diagonal")
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (3, 4, 7, 12):
        _, z, log_var = build("diagonal", batch)
        torch.manual_seed(1)
        expected = quantizer(z, log_var)
        torch.manual_seed(1)
        torch.testing.assert_close(compiled(z, log_var).loss, expected.loss)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Encode(nn.Module):
    def __init__(self, quantizer: Quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, z: torch.Tensor, log_var: torch.Tensor | None) -> torch.Tensor:
        return self.quantizer.encode(z, log_var)


class Decode(nn.Module):
    def __init__(self, quantizer: Quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.quantizer.decode(indices)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_encode_and_decode_export_for_any_batch_size(name):
    quantizer, z, log_var = build(name)
    batch = {0: torch.export.Dim("batch", min=1)}
    dynamic = (batch, None if log_var is None else batch)
    encode = torch.export.export(Encode(quantizer.eval()), (z, log_var), dynamic_shapes=dynamic)
    decode = torch.export.export(Decode(quantizer), (quantizer.encode(z, log_var),), dynamic_shapes=(batch,))
    _, z, log_var = build(name, batch=8)
    indices = quantizer.encode(z, log_var)
    assert torch.equal(encode.module()(z, log_var), indices)
    assert torch.equal(decode.module()(indices), quantizer.decode(indices))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_autocast_changes_nothing(name):
    quantizer, z, log_var = build(name)
    results = []
    for enabled in (False, True):
        quantizer, z, log_var = build(name)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.manual_seed(0)
            out = quantizer(z.requires_grad_(), log_var)
            indices, decoded = quantizer.encode(z, log_var), quantizer.decode(out.indices)
        (out.loss + out.quantized.square().sum()).backward()
        assert out.quantized.dtype == out.loss.dtype == z.grad.dtype == torch.float32
        results.append((out.quantized, out.loss, z.grad, indices, decoded))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_deterministic_mode(name):
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            quantizer, z, log_var = build(name)
            out = quantizer(z.requires_grad_(), log_var)
            (out.loss + out.quantized.square().sum()).backward()
            results.append((out.quantized, out.loss, z.grad, *out.metrics.values()))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_evaluation_in_blocks_is_evaluation_at_once(name, monkeypatch):
    quantizer, z, log_var = build(name)
    quantizer.eval()
    mask = torch.rand(3, 5) > 0.2
    whole = (*quantizer(z, log_var, mask=mask), quantizer.encode(z, log_var))
    monkeypatch.setattr(functional, "row_blocks", lambda rows, size: [slice(0, 4), slice(4, 11), slice(11, 15)])
    blocks = (*quantizer(z, log_var, mask=mask), quantizer.encode(z, log_var))
    torch.testing.assert_close(whole, blocks)
