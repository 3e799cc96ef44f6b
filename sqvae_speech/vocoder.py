"""Our own vocoder for Python programs and ``torch.hub``."""

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.models.hub import resolve_model, set_download_progress
from sqvae_speech.models.istft_vocoder import IstftVocoder, bundled_vocoder
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, load_trained_vocoder
from sqvae_speech.models.vocoder_model import VocoderModel
from sqvae_speech.models.vocoder_network import VocoderConfig
from sqvae_speech.units.batches import choose_device


def speech_vocoder(
    pretrained: bool | str = True, progress: bool = True, map_location: str = "cpu", mel_spec: str = "sqvae16k"
) -> IstftVocoder:
    """A vocoder for ``torch.hub.load``: ``vocoder.vocode(mel, peak)`` gives a wav.

    Args:
        pretrained: True for the small one that comes with the project, which takes ``sqvae16k`` log-mels; a folder or
            a Hugging Face Hub id for another; False for an untrained network.
        progress: show the progress of a download.
        map_location: the device.
        mel_spec: preset of the log-mels that an untrained one is for.

    Returns:
        An :class:`IstftVocoder`, in evaluation mode.

    Raises:
        UserError: there is no such vocoder, or it cannot be had.
    """
    device = str(choose_device(map_location))
    if pretrained is False:
        return IstftVocoder(VocoderBundle(VocoderModel(VocoderConfig(), MelSpec.preset(mel_spec))), device)
    if pretrained is True:
        return IstftVocoder(bundled_vocoder(device), device)
    set_download_progress(progress)
    return IstftVocoder(load_trained_vocoder(resolve_model(pretrained), device), device)
