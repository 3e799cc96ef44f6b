"""Convolutions over time as matrix products over rows, for inference, with fewer products than taps.

A row is a frame, its channels side by side. Tiles of outputs are made as :mod:`sqvae_speech.models.winograd`
explains, by PyTorch's own operators, so that nothing depends on what a machine can compile.
"""

import torch
from torch import Tensor, nn

from sqvae_speech.models.winograd import toom_cook

LEAST_OUTPUTS = 96  # with fewer, reading the matrices takes longer than the products that are saved
# taps -> outputs of a tile, and points of its polynomials besides infinity: of those that make all factors exact in
# bfloat16, in which the transforms are computed here too, the ones that lose the fewest digits.
_TILES = {3: (4, ("0", "3/4", "-3/4", "3/2", "-3/2")), 2: (3, ("0", "1", "-1"))}
_TILES_AT_ONCE = 512  # their products stay in a CPU's caches


class RowConvolution(nn.Module):
    """A convolution over rows, without padding, and its ReLU.

    Tiles round a little differently than plain products, which serve where there are fewer outputs than
    :data:`LEAST_OUTPUTS`.

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
            wide = weight.reshape(short, -1, self.out_channels)
            outputs, of_taps, inputs = (matrix.to(wide) for matrix in toom_cook(short, *_TILES[short]))
            # what each product gets of the bias, so that every output gets it once
            shares = torch.linalg.pinv(outputs).sum(dim=1)
            buffers = {
                "tile_weight": torch.einsum("pk,kio->pio", of_taps, wide),
                "tile_bias": torch.outer(shares, self.bias),
                "rows_transform": inputs,
                "back_transform": outputs,
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
        if self.tiles and count >= LEAST_OUTPUTS:
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
