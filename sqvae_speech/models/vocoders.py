"""Which vocoder a name means, those that this project trains included."""

import torch

from sqvae_speech.audio import vocoder
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.models.istft_vocoder import NAMES, load_istft_vocoder


def load_vocoder(name: str, mel_spec: MelSpec, device: str | torch.device = "cpu") -> vocoder.Vocoder:
    """Return a vocoder for features of ``mel_spec``.

    Args:
        name: ``istft``, ``istft:<folder>`` (see :mod:`.istft_vocoder`), or what
            :func:`sqvae_speech.audio.vocoder.load_vocoder` knows: ``griffin_lim``, ``hub:<repository>:<entry>``, ...
        mel_spec: the features that it is to be given.
        device: that a network computes on; Griffin-Lim computes where its mels are.

    Raises:
        UserError: there is no such vocoder, it takes other features, or it cannot be had.
    """
    if name.partition(":")[0] == "istft":
        return load_istft_vocoder(name, mel_spec, device)
    return vocoder.load_vocoder(name, mel_spec, device, others=NAMES)
