"""Quantizers: torch only, with one contract for speech and images (see :class:`Quantizer`)."""

from sqvae_speech.quantization.base import Quantizer, QuantizerOutput
from sqvae_speech.quantization.config import QuantizerConfig, build_quantizer
from sqvae_speech.quantization.gaussian import GaussianQuantizer
from sqvae_speech.quantization.grouped import GroupedQuantizer
from sqvae_speech.quantization.metrics import CodebookStatistics
from sqvae_speech.quantization.residual import ResidualQuantizer
from sqvae_speech.quantization.vector import VectorQuantizer
from sqvae_speech.quantization.vmf import VmfQuantizer

__all__ = [
    "CodebookStatistics",
    "GaussianQuantizer",
    "GroupedQuantizer",
    "Quantizer",
    "QuantizerConfig",
    "QuantizerOutput",
    "ResidualQuantizer",
    "VectorQuantizer",
    "VmfQuantizer",
    "build_quantizer",
]
