"""Exported tokenizers, run: ONNX files by onnxruntime, compiled packages by PyTorch."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sqvae_speech.errors import UserError

_Run = Callable[[NDArray[np.float32], NDArray[np.int64]], tuple[Any, Any]]


class ExportedTokenizer:
    """What :mod:`sqvae_speech.models.exporting` wrote, as a function of wavs. Needs neither the model nor its code.

    Args:
        path: ``.onnx`` or ``.pt2``, with the JSON beside it.
        threads: of onnxruntime; None: as many as PyTorch has.

    Attributes:
        facts: see :func:`sqvae_speech.models.exporting.describe`.
        run: the two inputs, arrays, to the two outputs, arrays or tensors.

    Raises:
        UserError: there is none, it is damaged, or onnxruntime is not here.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None):
        file = Path(path)
        facts = file.with_name(f"{file.name}.json")
        if file.suffix not in _LOADERS:
            raise UserError(f"{file} is no exported tokenizer; they end in {' or '.join(_LOADERS)}")
        for needed in (file, facts):
            if not needed.is_file():
                raise UserError(f"no exported tokenizer at {needed}; `sqvae-speech export` writes both files")
        try:
            self.facts: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
            self.run = _LOADERS[file.suffix](file, threads or torch.get_num_threads())
        except UserError:
            raise
        except Exception as error:  # of either runtime: no common base
            raise UserError(f"{file} cannot be loaded ({str(error).splitlines()[0]}); export it again") from error

    @property
    def sample_rate(self) -> int:
        return self.facts["sample_rate"]

    def encode(self, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int64]]:
        """Units of wavs, each (T,) float32 at :attr:`sample_rate`, in one batch: of each (N, U).

        Raises:
            UserError: this one was exported without features.
        """
        if self.facts["inputs"][0] != "wav":
            raise UserError(f"it takes {self.facts['inputs']}, not wavs: call run(), or export it with its features")
        lengths = np.array([len(wav) for wav in wavs], dtype=np.int64)
        padded = np.zeros((len(wavs), max([self.facts["least_samples"], *lengths.tolist()])), dtype=np.float32)
        for row, wav in zip(padded, wavs, strict=True):
            row[: len(wav)] = wav
        codes, units = self.run(padded, lengths)
        return [np.asarray(row)[:, :count] for row, count in zip(codes, np.asarray(units).tolist(), strict=True)]


def _load_onnx(path: Path, threads: int) -> _Run:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("running ONNX files needs onnxruntime: pip install 'sqvae_speech[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def _load_compiled(path: Path, threads: int) -> _Run:
    from torch._inductor import aoti_load_package

    package = aoti_load_package(str(path))
    # it reads memory as it was when it was compiled, contiguous, whatever a tensor's strides say
    return lambda *arrays: package(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


_LOADERS: dict[str, Callable[[Path, int], _Run]] = {".onnx": _load_onnx, ".pt2": _load_compiled}
