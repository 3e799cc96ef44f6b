"""F0 of the recordings of shards, a value a mel frame: a NumPy archive beside them, ``{utterance id: (F,) Hz}``."""

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.pitch_features import pitch_features
from sqvae_speech.data.files import whole_file
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.errors import UserError


class F0Tracks:
    """The F0 of all utterances of an index, as :func:`~sqvae_speech.audio.pitch_features.pitch_features`.

    Args:
        path: ``.npz``, as :func:`write_f0_tracks` writes it; arrays are Hz, 0 where unvoiced.
        index: of the shards.

    Raises:
        UserError: it is missing or damaged, lacks an utterance, or has another number of frames than its log-mel.
    """

    def __init__(self, path: str | os.PathLike[str], index: ShardIndex):
        self._features: dict[str, NDArray[np.float32]] = {}
        try:
            with np.load(path, allow_pickle=False) as archive:
                for entry in index.entries():
                    if entry.utterance_id not in archive.files:
                        raise UserError(
                            f"{path} has no F0 of {entry.utterance_id!r} of {index.folder}; make it of the same data "
                            "directory: `sqvae-speech data f0`"
                        )
                    track = np.asarray(archive[entry.utterance_id], dtype=np.float32)
                    if track.shape != (entry.num_frames,):
                        raise UserError(
                            f"{path}: F0 of {entry.utterance_id!r} is {track.shape}, its log-mel has "
                            f"{entry.num_frames} frames: of other features, or shards were trimmed and F0 was not"
                        )
                    self._features[entry.utterance_id] = pitch_features(track)
        except FileNotFoundError:
            raise UserError(f"no F0 at {path}; `sqvae-speech data f0` writes it") from None
        except UserError:
            raise
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not an archive of F0 ({error}); write it again") from None

    def cut(self, utterance_ids: Iterable[str], first: Iterable[int], width: int) -> NDArray[np.float32]:
        """(B, width, 2) float32, ``width`` frames of each utterance from frame ``first`` on, 0 beyond its end."""
        rows = []
        for name, start in zip(utterance_ids, first, strict=True):
            row = self._features[name][start : start + width]
            rows.append(np.pad(row, ((0, width - len(row)), (0, 0))))
        return np.stack(rows)


def write_f0_tracks(path: str | os.PathLike[str], tracks: Mapping[str, NDArray[np.floating]]) -> None:
    """Write F0 by utterance, (F,) Hz, 0 where unvoiced; whole or not at all."""
    with whole_file(Path(path)) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, track in tracks.items():  # not by numpy.savez, for which some names have a meaning
            member = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(member, npy_bytes(np.asarray(track, dtype=np.float32)), zipfile.ZIP_DEFLATED)
