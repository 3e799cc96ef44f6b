"""Gumbel noise from a counter: a pure function of (seed, row, code), so that a backward pass draws it again.

Every backend computes these same integers, whatever its block size, so they can be compared number by number.

The hash, on unsigned 32-bit integers with wrap-around, of row r and code k, with s0 and s1 the low and high halves of
the seed and ``mix`` the finaliser below::

    a = mix(mix(r + s0) ^ s1)        b = mix(mix(r + s1 + WEYL) ^ s0)        # two keys a row
    x = k * WEYL + a
    x = (x ^ x >> 16) * M1
    x = x ^ b
    x = (x ^ x >> 15) * M2
    u = ((x >> 9) + 1/2) * 2^-23                                             # in (0, 1), exact in float32
    g = -log(-log(u))

The multipliers are those of a 32-bit finaliser of low bias found by exhaustive search (C. Wellons, "Prospecting for
hash functions", 2018, public domain). 23 bits keep both ends open: the Gumbel values lie between -2.8 and 16.6.
"""

import torch
from torch import Tensor

WEYL, M1, M2 = 0x9E3779B9, 0x7FEB352D, 0x846CA68B


def draw_seed(device: torch.device) -> Tensor:
    """A seed (1,) int64 from the default generator of ``device``; without synchronisation."""
    return torch.randint(0, 2**63 - 1, (1,), dtype=torch.int64, device=device)


def row_keys(seed: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The two keys of rows ``start`` to ``stop``, int32 (stop - start, 1) each, holding unsigned bits."""
    row = torch.arange(start, stop, dtype=torch.int64, device=seed.device)[:, None]
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    first = _mix(_mix((row + low) & 0xFFFFFFFF) ^ high)
    second = _mix(_mix((row + high + WEYL) & 0xFFFFFFFF) ^ low)
    return _signed(first), _signed(second)


class Noise:
    """The noise of ``num_rows`` rows and ``codebook_size`` codes, drawn block by block.

    What depends on a row or a code alone is hashed once: for the small blocks of a cache these steps would cost more
    than the draw.
    """

    def __init__(self, seed: Tensor, num_rows: int, codebook_size: int):
        self.first, self.second = row_keys(seed, 0, num_rows)
        codes = torch.arange(codebook_size, dtype=torch.int64, device=seed.device)
        self.codes = _signed((codes * WEYL) & 0xFFFFFFFF)

    def uniform(self, block: slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in the open interval (0, 1), multiples of 2^-24: (n, K) of ``dtype`` for n rows."""
        x = self.first[block] + self.codes
        # int32 shifts keep the sign, hence the masks
        scratch = torch.bitwise_right_shift(x, 16).bitwise_and_(0xFFFF)
        x.bitwise_xor_(scratch).mul_(_as_int32(M1)).bitwise_xor_(self.second[block])
        torch.bitwise_right_shift(x, 15, out=scratch).bitwise_and_(0x1FFFF)
        x.bitwise_xor_(scratch).mul_(_as_int32(M2))
        return x.bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).to(dtype).add_(0.5).mul_(2.0**-23)

    def log_exponential(self, block: slice, dtype: torch.dtype = torch.float32) -> Tensor:
        """The logarithm of exponential noise, (n, K) of ``dtype``: Gumbel(0, 1) noise with its sign turned."""
        return self.uniform(block, dtype).log_().neg_().log_()

    def draw(self, logits: Tensor, block: slice) -> Tensor:
        """A draw from ``softmax(logits)`` of each row of a block, (n,) int64, by the Gumbel-max trick."""
        return (logits - self.log_exponential(block, logits.dtype)).argmax(dim=-1)


def derived_seed(seed: int, number: int) -> int:
    """Another seed for the ``number``-th of several draws that share one: 63 bits of SplitMix64."""
    mask = (1 << 64) - 1
    x = (seed + (number + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return (x ^ x >> 31) >> 1


def gumbel(seed: Tensor, start: int, stop: int, codebook_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gumbel(0, 1) noise of rows ``start`` to ``stop``, (stop - start, K) of ``dtype``."""
    return Noise(seed, stop, codebook_size).log_exponential(slice(start, stop), dtype).neg_()


def uniform(seed: Tensor, start: int, stop: int, codebook_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers in the open interval (0, 1), multiples of 2^-24: (stop - start, K) of ``dtype``."""
    return Noise(seed, stop, codebook_size).uniform(slice(start, stop), dtype)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit integers, held in int64, in which every input bit moves every output bit."""
    x = x ^ (x >> 16)
    x = (x * M1) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    # the product can pass 2^63: its low 32 bits are right all the same, in two's complement
    x = (x * M2) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _signed(x: Tensor) -> Tensor:
    """Unsigned 32-bit values held in int64, as int32 of the same bits."""
    return (x - ((x >> 31) << 32)).to(torch.int32)


def _as_int32(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value
