"""Convolutions by short products against the sum that defines a convolution, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from sqvae_speech.models.row_convolution import LEAST_OUTPUTS, RowConvolution

SHAPES = [(3, 1), (4, 2)]  # kernel, stride
COUNTS = [0, 1, 5, LEAST_OUTPUTS - 1, *range(LEAST_OUTPUTS, LEAST_OUTPUTS + 5), 2 * 4 * 512 + 3]


def by_definition(conv: nn.Conv2d, rows: np.ndarray, stride: int, relu: bool) -> np.ndarray:
    weight, bias = (values.detach().numpy() for values in (conv.weight, conv.bias))
    kernel = weight.shape[3]
    outputs = [
        bias + sum(weight[:, :, 0, tap] @ rows[start + tap] for tap in range(kernel))
        for start in range(0, len(rows) - kernel + 1, stride)
    ]
    out = np.array(outputs).reshape(-1, len(bias))
    return np.maximum(out, 0) if relu else out


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
def test_factors_are_exact_in_bfloat16(kernel, stride):
    """Or all outputs would err in the same way."""
    layer = RowConvolution(nn.Conv2d(5, 7, (1, kernel), (1, stride)).double())
    assert (
        len(layer.rows_transform) < len(layer.back_transform) * kernel // stride
    )  # fewer products than by definition
    for factors in (layer.rows_transform, layer.back_transform):
        assert torch.equal(factors, factors.bfloat16().double())


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_rows(kernel, stride, relu, count):
    torch.manual_seed(count)
    conv = nn.Conv2d(5, 7, (1, kernel), (1, stride)).double()
    for spare in range(stride):  # rows that no output needs
        rows = torch.randn(max(0, (count - 1) * stride + kernel + spare) if count else kernel - 1, 5)
        expected = by_definition(conv, rows.double().numpy(), stride, relu)
        assert len(expected) == count
        for tiles in (True, False):
            layer = RowConvolution(conv, activation=relu, tiles=tiles).float()
            out = torch.full((count + 2, 7), 9.0)
            got = layer(rows, out=out[1:-1])
            np.testing.assert_allclose(got.numpy(), expected, atol=5e-6)
            assert layer.num_outputs(len(rows)) == count
            torch.testing.assert_close(layer(rows), got, rtol=0, atol=5e-6)  # addresses decide how MKL rounds
            assert (out[[0, -1]] == 9.0).all()


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
def test_tiles_lose_few_digits(kernel, stride):
    """Against plain products in the same precision, whose own error is the measure."""
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 128, (1, kernel), (1, stride)).double()
    rows = torch.relu(torch.randn(1000, 256)).bfloat16().float()
    exact = by_definition(conv, rows.double().numpy(), stride, relu=True)
    for dtype, most in ((torch.float32, 4.0), (torch.bfloat16, 3.0)):
        error = {}
        for tiles in (True, False):
            got = RowConvolution(conv, tiles=tiles).to(dtype)(rows.to(dtype)).double()
            error[tiles] = float(np.sqrt(np.square(got.numpy() - exact).mean()))
        assert error[False] != error[True] < most * error[False]  # equal: the same way was taken twice
