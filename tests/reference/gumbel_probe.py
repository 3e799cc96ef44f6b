"""The Gumbel noise that a quantizer draws, read off its output, whichever way it is drawn.

The noise of a training pass is a function of the seed and the (rows, codes) shape, not of the values. So a probe, a
von Mises-Fisher quantizer whose codebook is the identity matrix and whose logits are all equal, returns its
Gumbel-softmax weights as the quantized vectors, to the last digit: ``softmax(g / 1)``. Their logarithm is the noise,
less a constant a row, which no softmax sees. This is the one place that the tests learn the noise from: drawing by
another rule (a counter, a kernel) needs no change here as long as equal seeds and shapes give equal noise.
"""

import torch
from torch import Tensor

from sqvae_speech.quantization import Quantizer, VmfQuantizer


def drawn_noise(quantizer: Quantizer, z: Tensor, mask: Tensor | None, seed: int) -> Tensor:
    """(B, *, K) float64: what ``quantizer(z, ..., mask=mask)`` adds to its logits after ``manual_seed(seed)``.

    Zero at masked positions, up to a constant at each of the others. The dtype of ``z`` counts, its values do not.
    """
    return drawn_noises(quantizer, z, mask, seed, 1)[0]


def drawn_noises(quantizer: Quantizer, z: Tensor, mask: Tensor | None, seed: int, count: int) -> list[Tensor]:
    """The noise of ``count`` quantizers of one size that run one after the other from a seed."""
    size = quantizer.codebook_size
    probe = VmfQuantizer(size, size).to(z.dtype).train()
    noises = []
    with torch.no_grad():
        probe.codebook.copy_(torch.eye(size))
        torch.manual_seed(seed)
        for _ in range(count):
            weights = probe(torch.ones(*z.shape[:-1], size, dtype=z.dtype), mask=mask).quantized
            noise = weights.double().log()
            noises.append(noise if mask is None else noise.masked_fill(~mask[..., None], 0.0))
    return noises
