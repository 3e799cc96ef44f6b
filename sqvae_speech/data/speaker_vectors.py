"""Speaker vectors of any other model, from a NumPy archive: ``numpy.savez("spk.npz", **{name: vector})``.

Names are those of speakers, of utterances, or both: a speaker without a vector of its own has the mean of those of
its utterances.
"""

import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.errors import UserError


class SpeakerVectorFile:
    """The vectors of an archive, all of one dimension.

    Args:
        path: ``.npz``; every array is (V,), numbers.
        dim: V.

    Raises:
        UserError: it is missing, damaged, empty, or its vectors are of another shape or not finite.

    Attributes:
        vectors: (V,) float32 by name.
    """

    def __init__(self, path: str | os.PathLike[str], dim: int):
        self.path = Path(path)
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                self.vectors = {name: np.asarray(archive[name], dtype=np.float32) for name in archive.files}
        except FileNotFoundError:
            raise UserError(f"no speaker vectors at {self.path}") from None
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} is no archive of numbers that numpy.savez wrote ({error})") from None
        if not self.vectors:
            raise UserError(f"{self.path} has no vectors")
        for name, vector in self.vectors.items():
            if vector.shape != (dim,) or not np.isfinite(vector).all():
                raise UserError(
                    f"{self.path}: {name!r} is {vector.shape}; finite vectors of ({dim},) are wanted "
                    "(model.speaker_vector_dim)"
                )

    def of_utterances(self, utterance_ids: Iterable[str], speakers: Iterable[NDArray[np.float32]]) -> np.ndarray:
        """(B, V) float32: of each utterance, or where there is none its speaker's, given."""
        return np.stack([self.vectors.get(name, own) for name, own in zip(utterance_ids, speakers, strict=True)])

    def of_speakers(self, speakers: Sequence[str], index: ShardIndex) -> NDArray[np.float32]:
        """(S, V) float32, of speakers in the order given.

        Raises:
            UserError: a speaker with neither a vector of its own nor of an utterance in ``index``.
        """
        found: dict[str, list[np.ndarray]] = {name: [] for name in speakers}
        for entry in index.entries():
            if entry.utterance_id in self.vectors and entry.speaker in found:
                found[entry.speaker].append(self.vectors[entry.utterance_id])
        rows = []
        for name, vectors in found.items():
            if name not in self.vectors and not vectors:
                raise UserError(
                    f"{self.path} has no vector of speaker {name!r}, nor of an utterance of {index.folder} by it"
                )
            rows.append(self.vectors[name] if name in self.vectors else np.mean(vectors, axis=0))
        return np.stack(rows)
