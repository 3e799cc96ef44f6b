"""A folder with a vocoder to share: its two files and a model card."""

import os
from pathlib import Path

from sqvae_speech.models.card import compose_card, write_shared_folder
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, save_vocoder

_USE = """```python
from sqvae_speech.vocoder import speech_vocoder

vocoder = speech_vocoder("{name}")
wav = vocoder.vocode(mel, peak)  # mel ({n_mels}, frames) of vocoder.mel_spec -> (samples,) at {sample_rate} Hz
```"""


def share_vocoder(
    directory: str | os.PathLike[str],
    bundle: VocoderBundle,
    *,
    name: str | None = None,
    licence: str | None = None,
    data: str | None = None,
    weights: str = "float32",
) -> Path:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``, which is all that is needed.

    Args:
        directory: made if need be; each file is written beside its name and renamed.
        bundle: the vocoder.
        name: what the card calls it; by default the folder.
        licence: of the weights, an SPDX id in lower case (``cc-by-4.0``), for the card.
        data: what it was trained on, in words, for the card.
        weights: ``float16`` stores matrices in half the size.

    Raises:
        UserError: ``directory`` is a file, or other weights.
    """
    return write_shared_folder(
        Path(directory),
        name,
        lambda folder: save_vocoder(folder, bundle, weights),
        lambda title: vocoder_card(bundle, title, licence=licence, data=data),
    )


def vocoder_card(bundle: VocoderBundle, name: str, *, licence: str | None = None, data: str | None = None) -> str:
    """A card in the Hub's form: YAML that its search reads, then Markdown. Arguments as :func:`share_vocoder`."""
    spec, config = bundle.mel_spec, bundle.model.config
    weights = sum(parameter.numel() for parameter in bundle.model.parameters())
    facts = {
        "data": data or "not stated",
        "features": f"{spec.name}: {spec.sample_rate} Hz, {spec.n_mels} mels, hop {spec.hop_length}",
        "network": f"{config.num_blocks} ConvNeXt blocks of {config.channels} channels, {weights:,} weights",
        "context": f"{bundle.model.network.context} frames on either side",
        "training": f"{bundle.step} steps",
    }
    use = _USE.format(name=name, n_mels=spec.n_mels, sample_rate=spec.sample_rate)
    return compose_card(
        name,
        what="A vocoder: log-mel frames to sound by an inverse short-time Fourier transform, in the manner of Vocos "
        "(arXiv 2306.00814), trained with sqvae_speech.",
        pipeline_tag="audio-to-audio",
        tags=["vocoder", "inverse-stft"],
        facts=facts,
        use=use,
        licence=licence,
    )
