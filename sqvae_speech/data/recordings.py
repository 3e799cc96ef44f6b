"""From an utterance of a data directory to samples."""

import functools
import io
import subprocess
from collections.abc import Iterable

import numpy as np

from sqvae_speech.audio.wav import read_wav, wav_info
from sqvae_speech.audio.wav import resample as change_rate
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.errors import UserError

# Below -80 dB of full scale, 3 steps of 16 bits, there is no speech, and a peak normalisation would blow up noise.
SILENT_PEAK = 1e-4


def read_utterance(
    utterance: Utterance, sample_rate: int, channel: str | None = None, resample: bool = False
) -> tuple[np.ndarray, int]:
    """Read an utterance's samples.

    Args:
        utterance: of a data directory.
        sample_rate: Hz wanted.
        channel: of recordings with several: ``"mix"`` or a number from 0; None refuses them.
        resample: resample a recording of another rate; otherwise it is refused.

    Returns:
        ``(wav, recording_sample_rate)``: (T,) float32 at ``sample_rate``, and the recording's own rate in Hz.

    Raises:
        UserError: what :func:`sqvae_speech.audio.wav.read_wav` refuses, another rate, silence, a failing command.
    """
    if utterance.is_pipe:
        output = _Output(_run(utterance.wav))
        output.name = utterance.wav
    wav, rate = read_wav(
        output if utterance.is_pipe else utterance.wav, start=utterance.start, end=utterance.end, channel=channel
    )
    if rate != sample_rate and not resample:
        raise UserError(
            f"{utterance.wav}: {rate} Hz, the MelSpec has {sample_rate} Hz; pass --resample or another --mel-spec"
        )
    peak = float(np.abs(wav).max())
    if peak < SILENT_PEAK:
        raise UserError(
            f"{utterance.wav}: silent, its largest sample is {peak:.2g} of 1 (at least {SILENT_PEAK:g}); leave it out"
        )
    return (wav if rate == sample_rate else change_rate(wav, rate, sample_rate)), rate


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


def check_recordings(utterances: Iterable[Utterance], tolerance: float = 0.05) -> None:
    """Open every recording that is a file and compare its length with its utterances' times.

    Raises:
        UserError: a recording that is missing or unreadable, or differs from ``utt2dur`` or ``segments`` by more
            than ``tolerance`` seconds.
    """
    info = functools.lru_cache(maxsize=1)(wav_info)
    for utterance in utterances:
        if utterance.is_pipe:
            continue
        seconds = info(utterance.wav).duration
        end = utterance.end if utterance.end is not None else seconds
        if end > seconds + tolerance:
            raise UserError(f"{utterance.utterance_id!r} ends at {end} s, but {utterance.wav} has {seconds:.3f} s")
        if utterance.duration is not None and abs(end - utterance.start - utterance.duration) > tolerance:
            raise UserError(
                f"{utterance.utterance_id!r} lasts {utterance.duration} s by utt2dur, {end - utterance.start:.3f} s "
                f"by {utterance.wav}; prepare the corpus again"
            )
