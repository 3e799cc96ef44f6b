"""Quantizers by name, for configuration files."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqvae_speech.quantization.base import Quantizer
from sqvae_speech.quantization.gaussian import GaussianQuantizer
from sqvae_speech.quantization.grouped import GroupedQuantizer
from sqvae_speech.quantization.residual import ResidualQuantizer
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
        num_quantizers: stages of residual quantization (gaussian, vq); 1 is without.
        num_groups: groups of product quantization, each with ``dim / num_groups`` channels; 1 is without.
        shared_codebook: one codebook for all residual stages (of a group).
        stage_dropout: probability of training an example with its first stages only.
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
    num_quantizers: int = 1
    num_groups: int = 1
    shared_codebook: bool = False
    stage_dropout: float = 0.0

    @property
    def num_codebooks(self) -> int:
        """Codes a position has."""
        return self.num_quantizers * self.num_groups


# kind -> what builds it; code of your own may add to it (docs/quantizer.md)
BUILDERS: dict[str, Callable[[QuantizerConfig], Quantizer]] = {
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
    if config.kind not in BUILDERS:
        raise ValueError(f"quantizer kind must be one of {', '.join(BUILDERS)}, got {config.kind!r}")
    for name in ("num_quantizers", "num_groups"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.dim % config.num_groups:
        raise ValueError(f"dim ({config.dim}) must be a multiple of num_groups ({config.num_groups})")
    if config.num_groups > 1:
        part = replace(config, num_groups=1, dim=config.dim // config.num_groups)
        return GroupedQuantizer([build_quantizer(part) for _ in range(config.num_groups)])
    if config.num_quantizers > 1:
        stage = replace(config, num_quantizers=1, shared_codebook=False, stage_dropout=0.0)
        return ResidualQuantizer(
            [build_quantizer(stage) for _ in range(config.num_quantizers)],
            shared_codebook=config.shared_codebook,
            stage_dropout=config.stage_dropout,
        )
    if config.shared_codebook or config.stage_dropout:
        raise ValueError("shared_codebook and stage_dropout are for num_quantizers > 1")
    return BUILDERS[config.kind](config)
