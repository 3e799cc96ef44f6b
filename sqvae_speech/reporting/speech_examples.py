"""Utterances of shards in several voices: as recorded, resynthesised from units, converted to another speaker."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sqvae_speech.audio.wav import resample
from sqvae_speech.data.index import Entry, ShardIndex
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.reader import ShardReader, UtteranceMel
from sqvae_speech.data.recordings import read_utterance
from sqvae_speech.errors import UserError
from sqvae_speech.models.inference import UnitTiming
from sqvae_speech.reporting.embed import mel_uri, sound_uri
from sqvae_speech.reporting.examples import Example, Span, Voice, strip
from sqvae_speech.units.convert_voice import convert_voice, speaker_index
from sqvae_speech.units.extract import min_frames

if TYPE_CHECKING:
    from sqvae_speech.audio.vocoder import Vocoder
    from sqvae_speech.models.pretrained import SpeechBundle

MOST_SECONDS = 6.0  # of an example: enough to hear, and small enough to be a part of a page


@dataclass(frozen=True)
class _Heard:
    """A voice, before it is drawn: all of an example share a scale of colours."""

    label: str
    wav: np.ndarray
    mel: np.ndarray


def speech_examples(
    bundle: "SpeechBundle",
    shards: Path,
    vocoder: "Vocoder",
    *,
    count: int = 3,
    target_speaker: str | None = None,
    data: Path | None = None,
    device: torch.device | str = "cpu",
) -> list[Example]:
    """Make examples of a model.

    Args:
        bundle: in evaluation mode, on ``device``.
        shards: folder with ``index.json``, of the bundle's MelSpec; utterances of different speakers are taken.
        vocoder: of the same MelSpec.
        count: so many utterances.
        target_speaker: to convert to; by default to another speaker each.
        data: data directory with the recordings; None: that of the recipe, if there is one. Without it the source is
            heard through the vocoder only. Commands in ``wav.scp`` are not run.
        device: where the model is.

    Raises:
        UserError: shards of another MelSpec, a target speaker that was not trained.
    """
    index = ShardIndex.load(shards)
    bundle.mel_spec.require_same(index.mel_spec, "the checkpoint", f"the shards of {shards}")
    bundle.mel_spec.require_same(vocoder.mel_spec, "the checkpoint", "the vocoder")
    if target_speaker is not None:
        speaker_index(bundle.speakers, target_speaker)
    recordings = _recordings(index, data)
    reader = ShardReader(index)
    longest = int(MOST_SECONDS * bundle.mel_spec.frame_rate)
    examples = []
    for number, entry in enumerate(choose(list(index.entries()), count, longest, min_frames(bundle.model))):
        utterance = reader.utterance(entry)
        target = target_speaker or _another(bundle.speakers, utterance.speaker, number)
        wav = _recorded(recordings.get(utterance.utterance_id), utterance, index, bundle.mel_spec.sample_rate)
        examples.append(_example(bundle, utterance, wav, target, vocoder, longest, device))
    return examples


def choose(entries: Sequence[Entry], count: int, longest: int, shortest: int) -> list[Entry]:
    """Utterances of as many speakers as can be, spread over them.

    Of each speaker one that is neither longer than ``longest`` frames nor shorter than a sixth of that, the first of
    the first speaker, the second of the second: where all say the same, something else is heard of each. Others are
    taken where there are none such, but none below ``shortest``.
    """
    speakers: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.num_frames >= shortest:
            speakers.setdefault(entry.speaker, []).append(entry)
    voices = list(speakers.values())
    if len(voices) > count:
        voices = [voices[number * len(voices) // count] for number in range(count)]
    ordered = []
    for place, own in enumerate(voices):
        fitting = [entry for entry in own if longest / 6 <= entry.num_frames <= longest]
        start = place % max(len(fitting), 1)
        ordered.append([*fitting[start:], *fitting[:start], *(entry for entry in own if entry not in fitting)])
    rounds = zip_longest(*ordered)
    return [entry for turn in rounds for entry in turn if entry is not None][:count]


def _another(speakers: Sequence[str], own: str, number: int) -> str | None:
    """A trained speaker who is not ``own``, half the list away; None where there is no other."""
    others = [speaker for speaker in speakers if speaker != own]
    if not others:
        return None
    place = speakers.index(own) if own in speakers else number
    return others[(place + len(speakers) // 2) % len(others)]


def _recordings(index: ShardIndex, data: Path | None) -> dict[str, Utterance]:
    """Utterances of the data directory that the shards were made of, by id."""
    folder = Path(index.folder).resolve()
    # recipes have data/<split> beside dump/<features>/<split>
    places = [data] if data is not None else [parent / "data" / folder.name for parent in folder.parents[1:3]]
    for place in places:
        if (place / "wav.scp").is_file() or data is not None:
            directory = DataDir.read(place, allow_pipes=True)
            return {utterance.utterance_id: utterance for utterance in directory if not utterance.is_pipe}
    return {}


def _recorded(
    found: Utterance | None, utterance: UtteranceMel, index: ShardIndex, sample_rate: int
) -> np.ndarray | None:
    """The recording at the model's rate, the part of it that is in the shard; None where it cannot be had."""
    if found is None:
        return None
    try:
        wav, rate = read_utterance(found, channel=index.front_end.channel)
    except UserError:  # moved since
        return None
    if "part" in utterance.meta:
        onset, offset = utterance.meta["part"]
        wav = wav[round(onset * rate) : round(offset * rate)]
    return wav if rate == sample_rate else resample(wav, rate, sample_rate)


def _example(
    bundle: "SpeechBundle",
    utterance: UtteranceMel,
    recording: np.ndarray | None,
    target: str | None,
    vocoder: "Vocoder",
    longest: int,
    device: torch.device | str,
) -> Example:
    spec = bundle.mel_spec
    mel = utterance.mel[:, :longest]
    samples = mel.shape[1] * spec.hop_length
    heard = []
    if recording is not None:
        heard.append(_Heard(f"Recording of {utterance.speaker}", recording[:samples], mel))
    vocoded = vocoder.vocode(torch.from_numpy(mel).to(device), peak=utterance.peak).float().cpu().numpy()
    heard.append(_Heard("Its log-mel, vocoded", vocoded, mel))
    voices = {utterance.speaker: f"Units, as {utterance.speaker}"} if utterance.speaker in bundle.speakers else {}
    if target is not None and target != utterance.speaker:
        voices[target] = f"Units, converted to {target}"
    for speaker, label in voices.items():
        result = convert_voice(bundle, mel, speaker, vocoder, utterance.peak, device=device)
        heard.append(_Heard(label, result.wav, result.mel))
    low, high = min(float(one.mel.min()) for one in heard), max(float(one.mel.max()) for one in heard)
    return Example(
        utterance.utterance_id,
        str(utterance.meta.get("text") or ""),
        tuple(
            Voice(
                one.label,
                sound_uri(one.wav, spec.sample_rate),
                mel_uri(one.mel, low, high),
                f"Log-mel spectrogram of {utterance.utterance_id}: {one.label}, {one.mel.shape[1]} frames",
            )
            for one in heard
        ),
        _strip(bundle, utterance, mel, device),
    )


def _strip(bundle: "SpeechBundle", utterance: UtteranceMel, mel: np.ndarray, device: torch.device | str):
    spec, timing = bundle.mel_spec, UnitTiming(bundle.mel_spec)
    batch = torch.as_tensor(mel, dtype=torch.float32, device=device)[None]
    indices = bundle.model.encode(batch, torch.tensor([mel.shape[1]], device=device)).indices[0].cpu()
    rows = indices.view(len(indices), -1).tolist()  # (U, N)
    spans = [timing.span(number) for number in range(len(rows))]
    units = [
        Span(start / spec.sample_rate, end / spec.sample_rate, " ".join(map(str, codes)))
        for (start, end), codes in zip(spans, rows, strict=True)
    ]
    seconds = mel.shape[1] / spec.frame_rate
    phones = [
        Span(max(float(onset), 0.0), min(float(offset), seconds), str(label))
        for onset, offset, label in utterance.meta.get("ali") or ()
        if float(onset) < seconds
    ]
    return strip(f"Phones and units of {utterance.utterance_id}", seconds, phones, units)
