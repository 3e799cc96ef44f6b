"""The recordings behind shards, for what their mels do not tell."""

import os
from pathlib import Path

import numpy as np

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.data.recordings import read_utterance
from sqvae_speech.errors import UserError


class ShardRecordings:
    """The wavs that shards were made from, as they were when their features were computed.

    Args:
        index: of the shards.
        data_dir: where they came from.
        allow_pipes: run the commands in its ``wav.scp``.

    Raises:
        UserError: no data directory, or one without some of the utterances.
    """

    def __init__(self, index: ShardIndex, data_dir: str | os.PathLike, allow_pipes: bool = False):
        self._index = index
        self._utterances = {one.utterance_id: one for one in DataDir.read(Path(data_dir), allow_pipes).utterances}
        missing = next((e.utterance_id for e in index.entries() if e.utterance_id not in self._utterances), None)
        if missing is not None:
            raise UserError(
                f"{data_dir} has no utterance {missing!r}; give the data directory the shards were made from"
            )

    def wav(self, utterance_id: str, num_samples: int) -> np.ndarray:
        """The wav of an utterance at the rate of its mel.

        Args:
            utterance_id: of the shards.
            num_samples: that its features were computed from, as the shards say.

        Returns:
            (num_samples,) float32.

        Raises:
            UserError: another length, or a recording that cannot be read.
        """
        spec, front_end = self._index.mel_spec, self._index.front_end
        utterance = self._utterances[utterance_id]
        wav, rate = read_utterance(utterance, front_end.channel)
        prepared = front_end.prepare(wav, rate, spec.sample_rate, utterance.wav).wav
        if len(prepared) != num_samples:
            raise UserError(
                f"{utterance.wav} makes {len(prepared)} samples, and the shards were made from {num_samples}: not "
                "the recording of then"
            )
        return prepared
