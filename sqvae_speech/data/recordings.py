"""From an utterance of a data directory to samples."""

import functools
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np

from sqvae_speech.audio.wav import read_wav, wav_info
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.errors import UserError

TOLERANCE = 0.05  # seconds by which a recording's length may differ from what the data directory says


def read_utterance(utterance: Utterance, channel: str | None = None) -> tuple[np.ndarray, int]:
    """Read an utterance's samples as they were recorded.

    Args:
        utterance: of a data directory.
        channel: of recordings with several: ``"mix"`` or a number from 0; None refuses them.

    Returns:
        ``(wav, sample_rate)``: (T,) float32, and the recording's rate in Hz.

    Raises:
        UserError: what :func:`sqvae_speech.audio.wav.read_wav` refuses, a failing command, a length that is not the
            one in ``utt2dur``: a truncated WAV looks like a shorter one.
    """
    source: str | _Output = utterance.wav
    if utterance.is_pipe:
        source = _Output(_run(utterance.wav))
        source.name = utterance.wav
    wav, rate = read_wav(source, start=utterance.start, end=utterance.end, channel=channel)
    if utterance.duration is not None:
        _require_duration(utterance, len(wav) / rate, utterance.duration)
    return wav, rate


def _require_duration(utterance: Utterance, found: float, expected: float) -> None:
    if abs(found - expected) > TOLERANCE:
        raise UserError(
            f"{utterance.utterance_id!r} lasts {expected:.3f} s by utt2dur, {found:.3f} s by {utterance.wav}; get "
            "the recording again, or prepare the corpus again"
        )


class _Output(io.BytesIO):
    """What a command wrote; readers take its name for their messages."""

    name: str


@functools.lru_cache(maxsize=1)  # segments of one recording come one after the other
def _run(command: str) -> bytes:
    done = subprocess.run(command.rstrip().rstrip("|"), shell=True, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        what = f"ended with code {done.returncode}" if done.returncode else "wrote nothing"
        raise UserError(f"command {command!r} {what}{': ' + said[-1] if said else ''}")
    return done.stdout


def recordings_digest(utterances: Iterable[Utterance], settings: str = "") -> str:
    """SHA-256 of settings, utterances, and their recordings' sizes and times; what a command gives is not seen."""
    digest = hashlib.sha256(settings.encode())
    for utterance in utterances:
        state: list[int] | None = None
        if not utterance.is_pipe and os.path.exists(utterance.wav):
            stat = os.stat(utterance.wav)
            state = [stat.st_size, stat.st_mtime_ns]
        digest.update(json.dumps([asdict(utterance), state], sort_keys=True).encode())
    return digest.hexdigest()


def check_recordings(utterances: Iterable[Utterance]) -> None:
    """Open every recording that is a file and compare its length with its utterances' times.

    Raises:
        UserError: a recording that is missing or unreadable, or differs from ``utt2dur`` or ``segments`` by more
            than :data:`TOLERANCE`.
    """
    info = functools.lru_cache(maxsize=1)(wav_info)
    for utterance in utterances:
        if utterance.is_pipe:
            continue
        seconds = info(utterance.wav).duration
        end = utterance.end if utterance.end is not None else seconds
        if end > seconds + TOLERANCE:
            raise UserError(f"{utterance.utterance_id!r} ends at {end} s, but {utterance.wav} has {seconds:.3f} s")
        if utterance.duration is not None:
            _require_duration(utterance, end - utterance.start, utterance.duration)
