"""Voice conversion: any source, to a speaker the model was trained on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sqvae_speech.audio.pitch_features import pitch_features
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.units.extract import min_frames
from sqvae_speech.units.meta import UnitStoreMeta, require_same_checkpoint, require_same_codebook
from sqvae_speech.units.sequences import UtteranceUnits, expand

if TYPE_CHECKING:
    from sqvae_speech.audio.vocoder import Vocoder
    from sqvae_speech.models.pretrained import SpeechBundle


class Conversion(NamedTuple):
    """``wav`` (samples,) float32 in [-1, 1] and ``mel`` (n_mels, 2U) float32, in the target speaker's voice."""

    wav: np.ndarray
    mel: np.ndarray


def speaker_index(speakers: Sequence[str], name: str) -> int:
    """The row of a trained speaker.

    Raises:
        UserError: for any other, listing those that were trained.
    """
    if name in speakers:
        return list(speakers).index(name)
    raise UserError(
        f"speaker {name!r} was not trained{nearest(name, speakers)} (trained: {', '.join(speakers)}). "
        "The rule is any source, seen target: whoever is recorded, the voice must be one seen in training"
    )


def convert_voice(
    bundle: "SpeechBundle",
    mel: np.ndarray,
    target_speaker: str,
    vocoder: "Vocoder",
    peak: float | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Conversion:
    """Say what a log-mel says in another voice: encode, decode as the target speaker, vocode.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        mel: (n_mels, T) float32 of the bundle's MelSpec.
        target_speaker: a name among ``bundle.speakers``.
        vocoder: of the same MelSpec.
        peak: max abs of the source's waveform, linear; the result gets the same. None leaves the level alone.
        device: where the model is.

    Raises:
        UserError: for a speaker that was not trained, or a mel too short for a unit.
    """
    speaker = speaker_index(bundle.speakers, target_speaker)
    if mel.shape[1] < min_frames(bundle.model):
        raise UserError(
            f"{mel.shape[1]} frames are too few: a unit needs {min_frames(bundle.model)} "
            f"({min_frames(bundle.model) / bundle.mel_spec.frame_rate * 1000:.0f} ms)"
        )
    with torch.no_grad():
        batch = torch.as_tensor(mel, dtype=torch.float32, device=device)[None]
        indices, _ = bundle.model.encode(batch, torch.tensor([mel.shape[1]], device=device))
        return _vocoded(_decoded(bundle, indices, speaker), vocoder, peak)


def speak_units(
    bundle: "SpeechBundle",
    units: UtteranceUnits,
    target_speaker: str,
    vocoder: "Vocoder",
    *,
    device: torch.device | str = "cpu",
) -> Conversion:
    """Decode stored units in a speaker's voice, at the level of the recording when its peak was kept.

    Deduplicated units are stretched to their durations first.

    Raises:
        UserError: for a speaker that was not trained, or an utterance without units.
    """
    return _vocoded(decode_units(bundle, units, target_speaker, device=device), vocoder, units.peak)


@torch.no_grad()
def decode_units(
    bundle: "SpeechBundle", units: UtteranceUnits, target_speaker: str, *, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """The log-mel of stored units in a speaker's voice, (n_mels, 2U) float32. See :func:`speak_units`.

    A model that can be told F0 is, where the units have it.
    """
    speaker = speaker_index(bundle.speakers, target_speaker)
    codes = expand(units).codes
    if codes.shape[1] == 0:
        raise UserError(f"{units.utterance_id} has no units: there is nothing to say")
    indices = codes[0] if bundle.model.num_codebooks == 1 else codes.T
    f0 = expand(units).f0 if bundle.model.config.f0_condition else None
    pitch = None
    if f0 is not None:
        of_frames = pitch_features(f0).repeat(bundle.model.frames_per_unit, axis=0)
        pitch = torch.as_tensor(of_frames, device=device)[None]
    return _decoded(bundle, torch.as_tensor(indices, device=device)[None], speaker, pitch)


def require_units_of(bundle: "SpeechBundle", meta: UnitStoreMeta, what: str) -> None:
    """Refuse units that another model made: decoded, they would be gibberish.

    Raises:
        UserError: when codebook, features or checkpoint differ, with both values. What a file does not say (a text
            form knows neither features nor checkpoint) is not compared.
    """
    from sqvae_speech.audio.melspec import MelSpec

    model = bundle.model
    require_same_codebook(meta, model.codebook_size, model.num_codebooks, what, "the checkpoint")
    if meta.mel_spec is not None:
        bundle.mel_spec.require_same(MelSpec.from_dict(meta.mel_spec), "the checkpoint", what)
    require_same_checkpoint(meta, bundle.fingerprint, what)


def _decoded(
    bundle: "SpeechBundle", indices: torch.Tensor, speaker: int, pitch: torch.Tensor | None = None
) -> torch.Tensor:
    lengths = torch.tensor([indices.shape[1]], device=indices.device)
    return bundle.model.decode(indices, torch.tensor([speaker], device=indices.device), lengths, pitch)[0].float()


def _vocoded(mel: torch.Tensor, vocoder: "Vocoder", peak: float | None) -> Conversion:
    with torch.no_grad():
        wav = vocoder.vocode(mel, peak=peak)
    return Conversion(wav.float().cpu().numpy(), mel.cpu().numpy())
