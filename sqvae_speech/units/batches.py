"""Whole utterances in padded batches of similar length, without losing their order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from sqvae_speech.data.reader import UtteranceMel, pad
from sqvae_speech.errors import UserError

Result = TypeVar("Result")
WINDOW_BATCHES = 16  # batches' worth of frames that are read ahead and sorted by length


class MelBatch(NamedTuple):
    """``utterances`` (B of them), ``mel`` (B, n_mels, T) float32 padded with zeros, ``lengths`` (B,) int64 frames."""

    utterances: list[UtteranceMel]
    mel: Tensor
    lengths: Tensor


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes a GPU when there is one; otherwise any torch device name.

    Raises:
        UserError: for a name torch does not know, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device {name!r}; legal: auto, cpu, cuda, cuda:0, ...") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}, but torch sees no CUDA device; use --device cpu")
    return device


def in_order(
    utterances: Iterable[UtteranceMel],
    process: Callable[[MelBatch], Sequence[Result]],
    *,
    max_frames: int,
    min_frames: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[UtteranceMel, Result | None]]:
    """Run ``process`` over padded batches and give the results back in the order of the utterances.

    Utterances are read ahead, about ``WINDOW_BATCHES * max_frames`` frames of them, and batched by length within that
    window: memory is bounded whatever the size of the set, and little is spent on padding.

    Args:
        utterances: in the order wanted.
        process: gives a result for each utterance of a batch.
        max_frames: frames of a batch with its padding; a longer utterance makes a batch alone.
        min_frames: utterances with fewer frames are not processed and come with ``None``.
        device: where the batches go.
    """
    window: list[UtteranceMel] = []
    frames = 0
    for utterance in utterances:
        window.append(utterance)
        frames += utterance.mel.shape[1]
        if frames >= WINDOW_BATCHES * max_frames:
            yield from _process_window(window, process, max_frames, min_frames, device)
            window, frames = [], 0
    yield from _process_window(window, process, max_frames, min_frames, device)


def _process_window(
    window: list[UtteranceMel],
    process: Callable[[MelBatch], Sequence[Result]],
    max_frames: int,
    min_frames: int,
    device: torch.device | str,
) -> Iterator[tuple[UtteranceMel, Result | None]]:
    results: list[Result | None] = [None] * len(window)
    long_enough = [number for number, utterance in enumerate(window) if utterance.mel.shape[1] >= min_frames]
    order = sorted(long_enough, key=lambda number: (-window[number].mel.shape[1], number))
    while order:
        size = max(1, max_frames // window[order[0]].mel.shape[1])  # the longest comes first and sets the width
        members, order = order[:size], order[size:]
        padded = pad([window[number].mel for number in members])
        batch = MelBatch(
            [window[number] for number in members], padded["mel"].to(device), padded["lengths"].to(device)
        )
        for number, result in zip(members, process(batch), strict=True):
            results[number] = result
    yield from zip(window, results, strict=True)
