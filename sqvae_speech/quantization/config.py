"""Quantizers by name, for configuration files."""

from dataclasses import dataclass

from sqvae_speech.quantization.base import Quantizer
from sqvae_speech.quantization.gaussian import GaussianQuantizer
from sqvae_speech.quantization.vector import VectorQuantizer
from sqvae_speech.quantization.vmf import VmfQuantizer


@dataclass(frozen=True)
class QuantizerConfig:
    """Which quantizer, and its settings; those of other kinds are ignored.

    Attributes:
        kind: ``gaussian``, ``vmf`` or ``vq``.
        codebook_size: K.
        dim: D of the latents.
        covariance: gaussian: ``global``, ``sample``, ``position`` or ``diagonal`` (types I to IV).
        init_variance: gaussian: where σ² starts.
        init_kappa: vmf: where κ starts.
        variance_sum: gaussian, vmf: add variances as the published vision code does.
        codebook_update: vq: ``ema`` or ``gradient``.
        commitment: vq: weight of the commitment loss.
        ema_decay: vq: decay of the moving averages.
    """

    kind: str = "gaussian"
    codebook_size: int = 512
    dim: int = 64
    covariance: str = "diagonal"
    init_variance: float = 10.0
    init_kappa: float = 20.0
    variance_sum: bool = False
    codebook_update: str = "ema"
    commitment: float = 0.25
    ema_decay: float = 0.99


_BUILDERS = {
    "gaussian": lambda c: GaussianQuantizer(
        c.codebook_size, c.dim, c.covariance, init_variance=c.init_variance, variance_sum=c.variance_sum
    ),
    "vmf": lambda c: VmfQuantizer(c.codebook_size, c.dim, init_kappa=c.init_kappa, variance_sum=c.variance_sum),
    "vq": lambda c: VectorQuantizer(
        c.codebook_size, c.dim, c.codebook_update, commitment=c.commitment, ema_decay=c.ema_decay
    ),
}


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """Build the quantizer that ``config`` names.

    Raises:
        ValueError: an unknown kind or a setting out of range.
    """
    if config.kind not in _BUILDERS:
        raise ValueError(f"quantizer kind must be one of {', '.join(_BUILDERS)}, got {config.kind!r}")
    return _BUILDERS[config.kind](config)
