"""Where the recordings of a data directory are, for forms that name them."""

import os
from pathlib import Path
from typing import NamedTuple

from sqvae_speech.audio.wav import WavInfo, wav_info
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.errors import UserError


class Recordings(NamedTuple):
    """Recordings by the ids of their utterances.

    Attributes:
        root: the folder below which all of them are.
        paths: relative to it.
    """

    root: Path
    paths: dict[str, str]

    def path(self, utterance_id: str) -> str:
        """Relative to the root. :class:`UserError` for an utterance that the data directory does not have."""
        if utterance_id not in self.paths:
            raise UserError(f"{utterance_id!r} is not in the data directory given; give that of these units")
        return self.paths[utterance_id]

    def info(self, utterance_id: str) -> WavInfo:
        """Length and rate of the recording itself."""
        return wav_info(self.root / self.path(utterance_id))


def recordings_of(data_dir: str | os.PathLike) -> Recordings:
    """The recordings of a Kaldi data directory.

    Raises:
        UserError: the directory is not valid, or has segments or pipes, which are no files of their own.
    """
    paths = {}
    for utterance in DataDir.read(Path(data_dir)).utterances:
        if utterance.start != 0 or utterance.end is not None:
            raise UserError(
                f"{data_dir}: {utterance.utterance_id!r} is a segment of {utterance.wav}; whole files are needed here"
            )
        paths[utterance.utterance_id] = os.path.abspath(utterance.wav)
    root = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else os.getcwd()
    return Recordings(Path(root), {name: os.path.relpath(path, root) for name, path in paths.items()})
