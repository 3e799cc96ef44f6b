"""torch.hub entry points: ``torch.hub.load("OWNER/sqvae_speech", "sqvae_speech")``, or with ``source="local"``."""

dependencies = ["huggingface_hub", "numpy", "pyarrow", "safetensors", "soundfile", "soxr", "torch", "tqdm", "yaml"]

from sqvae_speech.tokenizer import speech_tokenizer as sqvae_speech  # noqa: E402, F401
from sqvae_speech.vocoder import speech_vocoder as sqvae_speech_vocoder  # noqa: E402, F401
