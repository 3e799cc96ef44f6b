"""The model card of a vocoder."""

from sqvae_speech.models.card import compose_card
from sqvae_speech.models.pretrained_vocoder import VocoderBundle

_USE = """```python
from sqvae_speech.vocoder import speech_vocoder

vocoder = speech_vocoder("{name}")
wav = vocoder.vocode(mel, peak)  # mel ({n_mels}, frames) of vocoder.mel_spec -> (samples,) at {sample_rate} Hz
```"""


def vocoder_card(bundle: VocoderBundle, name: str, *, licence: str | None = None, data: str | None = None) -> str:
    """A card in the Hub's form: YAML that its search reads, then Markdown. See :func:`.card.compose_card`."""
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
