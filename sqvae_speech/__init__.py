"""sqvae_speech: a speech discrete tokenizer on the stochastically quantized VAE (SQ-VAE, arXiv 2205.07547)."""

from sqvae_speech.version import __version__

__all__ = ["__version__"]
