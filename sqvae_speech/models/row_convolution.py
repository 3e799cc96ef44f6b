"""Convolutions over time as matrix products over rows, with fewer products than taps.

A row is a frame, its channels side by side. The short convolutions of Toom and Cook (S. Winograd, Arithmetic
Complexity of Computations, 1980; for networks: Lavin and Gray, arXiv 1509.09308) give four neighbouring outputs of
three taps by six products of rows with matrices instead of twelve, and three of two taps by four instead of six.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LEAST_OUTPUTS = 96  # with fewer, reading the matrices takes longer than the products that are saved
# taps -> outputs of a tile, and where its polynomials are evaluated, besides infinity. The numbers of the transforms
# are exact in bfloat16, and these points lose fewer digits than 1, -1, 2, -2.
_TILES = {3: (4, (0.0, 0.75, -0.75, 1.5, -1.5)), 2: (3, (0.0, 1.0, -1.0))}
_TILES_AT_ONCE = 512  # their products stay in a CPU's caches


class TileTransform:
    """Of so many neighbouring values of a correlation, ``y_i = Σ_k w_k x_(i+k)``.

    ``y = back @ ((weights @ w) * (rows @ x))``: the product of two polynomials comes from its values at as many
    points as it has coefficients, and a correlation is the transpose of that map.

    Attributes:
        rows: (products, products), products = outputs + taps - 1.
        weights: (products, taps).
        back: (outputs, products).
        ones: (products,), which ``back`` takes to ones.
    """

    def __init__(self, taps: int):
        outputs, points = _TILES[taps]
        finite = np.array(points)
        # a row for each point: the polynomial that is 0 at all others; its value at its own is divided out of weights
        others = [np.delete(finite, number) for number in range(len(finite))]
        own = np.array([np.prod(point - rest) for point, rest in zip(finite, others, strict=True)] + [1.0])
        rows = [np.append(np.poly(rest)[::-1], 0.0) for rest in others]
        self.rows: NDArray[np.float64] = np.array([*rows, np.poly(finite)[::-1]])
        self.weights: NDArray[np.float64] = _values(finite, taps) / own[:, None]
        self.back: NDArray[np.float64] = _values(finite, outputs).T
        self.ones: NDArray[np.float64] = np.linalg.pinv(self.back) @ np.ones(outputs)


def _values(points: NDArray[np.float64], coefficients: int) -> NDArray[np.float64]:
    """(points + 1, coefficients), which takes a polynomial's coefficients to its values; the last is at infinity."""
    return np.concatenate([points[:, None] ** np.arange(coefficients), np.eye(coefficients)[-1:]])


class RowConvolution(nn.Module):
    """A convolution over rows, without padding, and its ReLU.

    Tiles round a little differently than plain products, which serve where there are fewer than
    :data:`LEAST_OUTPUTS`, in float64 and on GPUs.

    Args:
        conv: of height 1, with a bias. A stride of 2 is taken as one of 1 over pairs of rows.
        activation: whether a ReLU follows.
        tiles: use short convolutions where they serve.
    """

    tile_weight: Tensor
    tile_bias: Tensor
    rows_transform: Tensor
    back_transform: Tensor

    def __init__(self, conv: nn.Conv2d, *, activation: bool = True, tiles: bool = True):
        super().__init__()
        assert conv.bias is not None
        self.taps, self.stride, self.padding = conv.kernel_size[1], conv.stride[1], int(conv.padding[1])
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.activation = activation
        short = self.taps // self.stride
        self.tiles = tiles and self.taps % self.stride == 0 and short in _TILES
        weight = conv.weight.detach()[:, :, 0].permute(2, 1, 0)  # (taps, C, C')
        self.weight = nn.Parameter(weight.reshape(-1, self.out_channels), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
        if self.tiles:
            transform = TileTransform(short)
            wide = weight.reshape(short, -1, self.out_channels)
            buffers = {
                "tile_weight": torch.einsum("pk,kio->pio", torch.from_numpy(transform.weights).to(wide), wide),
                "tile_bias": torch.outer(torch.from_numpy(transform.ones).to(wide), self.bias),
                "rows_transform": torch.from_numpy(transform.rows).to(wide),
                "back_transform": torch.from_numpy(transform.back).to(wide),
            }
            for name, values in buffers.items():
                self.register_buffer(name, values, persistent=False)

    def num_outputs(self, num_rows: int) -> int:
        return max(0, (num_rows - self.taps) // self.stride + 1)

    def forward(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            rows: (F, C), contiguous.
            out: (n, C'), contiguous, where the result goes; None makes one.

        Returns:
            (n, C'), n = ``num_outputs(F)``.
        """
        count = self.num_outputs(len(rows))
        out = rows.new_empty(count, self.out_channels) if out is None else out
        if self.tiles and count >= LEAST_OUTPUTS and rows.dtype != torch.float64 and rows.device.type == "cpu":
            return self._by_tiles(rows, out)
        if count:
            windows = rows.as_strided((count, len(self.weight)), (self.stride * self.in_channels, 1))
            torch.addmm(self.bias, windows, self.weight, out=out)
        return out.relu_() if self.activation else out

    def _by_tiles(self, rows: Tensor, out: Tensor) -> Tensor:
        products, width, _ = self.tile_weight.shape
        tile, count = len(self.back_transform), len(out)
        x = rows[: (count - 1) * self.stride + self.taps].view(-1, width)
        whole = count // tile
        for first in range(0, whole, _TILES_AT_ONCE):
            size = min(_TILES_AT_ONCE, whole - first)
            # where tiles do not divide the outputs, one more makes the last ones, and some of them again
            more = int(first + size == whole and count % tile > 0)
            inputs = x.new_empty(products, size + more, width)
            for number, values in enumerate(inputs):
                begin = first * tile + number
                values[:size] = x[begin : begin + (size - 1) * tile + 1 : tile]
                if more:
                    values[size] = x[count - tile + number]
            inputs = torch.mm(self.rows_transform, inputs.flatten(1)).view_as(inputs)
            made = x.new_empty(products, size + more, self.out_channels)
            for values, weight, bias, product in zip(inputs, self.tile_weight, self.tile_bias, made, strict=True):
                torch.addmm(bias, values, weight, out=product)
            outputs = torch.mm(self.back_transform, made.flatten(1)).view(tile, size + more, -1)
            self._put(outputs[:, :size].transpose(0, 1), out[first * tile : (first + size) * tile])
            if more:
                self._put(outputs[:, size:].transpose(0, 1), out[count - tile :])
        return out

    def _put(self, tiles: Tensor, out: Tensor) -> None:
        """(n, tile, C') into (n * tile, C')."""
        target = out.view(tiles.shape)
        if self.activation:
            torch.clamp_min(tiles, 0.0, out=target)
        else:
            target.copy_(tiles)
