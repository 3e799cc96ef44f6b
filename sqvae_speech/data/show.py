"""One utterance of a data directory or of shards: what is known of it, its levels, its mel."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sqvae_speech.audio.filterbank import band_edges
from sqvae_speech.audio.front_end import CLIPPED_LEVEL, FrontEnd
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.wav import read_wav, wav_info
from sqvae_speech.data.ids import known_id
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Interval, Utterance
from sqvae_speech.data.recordings import read_utterance
from sqvae_speech.data.shard_folder import is_shards
from sqvae_speech.data.tables import format_facts
from sqvae_speech.errors import UserError


@dataclass(frozen=True)
class Shown:
    """An utterance to look at.

    Attributes:
        utterance_id: its id.
        facts: what is known, as (name, value) lines.
        mel: (n_mels, T) float32; None when none can be computed, ``facts`` say why.
        mel_spec: settings of ``mel``.
        ali: intervals, seconds from the utterance's start.
    """

    utterance_id: str
    facts: tuple[tuple[str, str], ...]
    mel: np.ndarray | None
    mel_spec: MelSpec
    ali: tuple[Interval, ...]

    def __str__(self) -> str:
        return format_facts(self.facts)


def show(
    folder: str | Path,
    utterance_id: str,
    mel_spec: MelSpec,
    channel: str | None = None,
    allow_pipes: bool = False,
) -> Shown:
    """Look at an utterance.

    Args:
        folder: data directory or folder of shards.
        utterance_id: its id.
        mel_spec: settings of the mel to compute, for a data directory; shards have their own.
        channel: of a recording with several, for the mel: ``"mix"`` or a number from 0; None takes the mean.
        allow_pipes: run a command in ``wav.scp``.

    Raises:
        UserError: no such utterance, with the nearest ids; a folder that is neither; a recording that cannot be read.
    """
    if is_shards(folder):
        return _from_shards(Path(folder), utterance_id)
    return _from_data_dir(Path(folder), utterance_id, mel_spec, channel or "mix", allow_pipes)


def _from_shards(folder: Path, utterance_id: str) -> Shown:
    from sqvae_speech.data.reader import ShardReader

    index = ShardIndex.load(folder)
    entries = {entry.utterance_id: entry for entry in index.entries()}
    bad = {item.name: item.reason for item in index.bad}
    if utterance_id in bad:
        raise UserError(f"{utterance_id!r} was left out of {folder}: {bad[utterance_id]}")
    entry = entries[known_id(utterance_id, entries, folder, "utterance")]
    found = ShardReader(index).utterance(entry)
    meta, spec = found.meta, index.mel_spec
    ali = tuple(Interval(*interval) for interval in meta.get("ali", ()))
    recorded = meta.get("recording_sample_rate", meta["sample_rate"])
    resampled = "" if recorded == meta["sample_rate"] else f", recorded at {recorded} Hz"
    facts = [
        ("utterance", utterance_id),
        ("speaker", found.speaker),
        ("shard", index.shards[entry.shard].name),
        *_text_and_ali(meta.get("text"), ali),
        (
            "wav",
            f"{meta['num_samples'] / meta['sample_rate']:.3f} s, {meta['num_samples']:,} samples at "
            f"{meta['sample_rate']} Hz{resampled}; peak {_level(found.peak)}",
        ),
        *_mel_facts(found.mel, spec),
    ]
    return Shown(utterance_id, tuple(facts), found.mel, spec, ali)


def _from_data_dir(folder: Path, utterance_id: str, spec: MelSpec, channel: str, allow_pipes: bool) -> Shown:
    data = {utterance.utterance_id: utterance for utterance in DataDir.read(folder, allow_pipes=True)}
    utterance = data[known_id(utterance_id, data, folder, "utterance")]
    if utterance.is_pipe and not allow_pipes:
        raise UserError(
            f"{utterance_id!r} comes from a command, {utterance.wav!r}, which may do anything; pass --allow-pipes to "
            "run it"
        )
    end = "its end" if utterance.end is None else f"{utterance.end:.3f} s"
    part = "" if utterance.start == 0 and utterance.end is None else f", from {utterance.start:.3f} s to {end}"
    facts = [
        ("utterance", utterance_id),
        ("speaker", utterance.speaker),
        ("recording", f"{utterance.wav}{part}"),
        *_text_and_ali(utterance.text, utterance.ali),
    ]
    if not utterance.is_pipe:
        facts.append(("wav", _wav_facts(utterance)))
    mel = None
    try:
        front_end = FrontEnd(channel=channel, resample="soxr")
        wav, rate = read_utterance(utterance, front_end.channel)
        mel = _mel(front_end.prepare(wav, rate, spec.sample_rate, utterance.wav).wav, spec)
        facts += _mel_facts(mel, spec)
    except UserError as error:
        facts.append(("mel", f"none: {error}"))
    return Shown(utterance_id, tuple(facts), mel, spec, utterance.ali)


def _text_and_ali(text: str | None, ali: tuple[Interval, ...]) -> list[tuple[str, str]]:
    facts = [("text", text)] if text else []
    if ali:
        intervals = ", ".join(f"{item.label} {item.onset:.2f}-{item.offset:.2f}" for item in ali)
        facts.append(("ali", f"{len(ali)} intervals: {intervals}"))
    return facts


def _wav_facts(utterance: Utterance) -> str:
    info = wav_info(utterance.wav)
    channels = [
        read_wav(utterance.wav, start=utterance.start, end=utterance.end, channel=number)[0]
        for number in range(info.channels)
    ]
    wav = np.stack(channels).astype(np.float64)
    clipped = int((np.abs(wav) >= CLIPPED_LEVEL).sum())
    many = f"{info.channels} channels" if info.channels > 1 else "1 channel"
    return (
        f"{wav.shape[1] / info.sample_rate:.3f} s, {wav.shape[1]:,} samples at {info.sample_rate} Hz, {many}; peak "
        f"{_level(float(np.abs(wav).max()))}, RMS {_level(float(np.sqrt(np.mean(wav**2))))}, {clipped:,} samples "
        f"clipped (from {CLIPPED_LEVEL})"
    )


def _level(value: float) -> str:
    """A linear level, and in dB of full scale (which is 1)."""
    return f"{value:.4f}" + (f" ({20 * np.log10(value):.1f} dBFS)" if value > 0 else " (silence)")


def _mel(wav: np.ndarray, spec: MelSpec) -> np.ndarray:
    import torch

    from sqvae_speech.audio.logmel import LogMel

    with torch.no_grad():
        return LogMel(spec)(torch.from_numpy(wav)[None]).mel[0].numpy()


def _mel_facts(mel: np.ndarray, spec: MelSpec) -> list[tuple[str, str]]:
    values = mel.astype(np.float64)
    low, high, mean, deviation = (float(f(values)) for f in (np.min, np.max, np.mean, np.std))
    means = np.mean(values, axis=1)
    band = int(np.argmax(means))
    centre = band_edges(spec)[band + 1]
    return [
        (
            "mel",
            f"{spec.name}: {mel.shape[0]} bands x {mel.shape[1]:,} frames, {mel.shape[1] / spec.frame_rate:.2f} s; "
            f"min {low:.3f}, max {high:.3f}, mean {mean:.3f}, std {deviation:.3f}",
        ),
        (
            "loudest band",
            f"{band} of 0 to {mel.shape[0] - 1}, around {centre:.0f} Hz (mean {means[band]:.3f})",
        ),
    ]
