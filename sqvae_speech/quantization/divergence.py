"""The divergence of rows from their mixtures, for backends that do not make it within their own passes."""

from torch import Tensor

from sqvae_speech.quantization import functional


def forward(z: Tensor, codebook: Tensor, weight: Tensor, kind: str, quantized: Tensor) -> Tensor:
    """(N,) of ``z`` (N, D) from ``quantized`` (N, D), which is less the mean code for ``gaussian``."""
    return functional.DIVERGENCES[kind](_centred(z, codebook, kind), quantized, functional.at_least_float32(weight))


def backward(
    grad_divergence: Tensor, z: Tensor, codebook: Tensor, weight: Tensor, kind: str, quantized: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``quantized``, ``z`` and ``weight``, in their shapes, from that of the divergence (N,)."""
    z, scaled = _centred(z, codebook, kind), functional.at_least_float32(weight) * grad_divergence[:, None]
    if kind == "gaussian":
        difference = z - quantized
        grad_z = difference * scaled
        grad_quantized, grad_weight = -grad_z, difference.square_().mul_(0.5)
    else:
        grad_z, grad_quantized = (2.0 * z - quantized) * scaled, -z * scaled
        grad_weight = z * (z - quantized)
    if weight.shape[-1] == 1:
        grad_weight = grad_weight.sum(dim=-1, keepdim=True)
    return grad_quantized, grad_z, grad_weight.mul_(grad_divergence[:, None]).sum_to_size(weight.shape)


def _centred(z: Tensor, codebook: Tensor, kind: str) -> Tensor:
    z = functional.at_least_float32(z)
    return z - functional.centre(functional.at_least_float32(codebook)) if kind == "gaussian" else z
