"""Tokenizers for other runtimes: an ONNX file, or a package that AOTInductor has compiled."""

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sqvae_speech.errors import UserError
from sqvae_speech.models.graph import MelToUnits, WavToUnits, least_samples
from sqvae_speech.models.inference import UnitTiming
from sqvae_speech.models.pretrained import SpeechBundle
from sqvae_speech.version import __version__

OPSET = 18
OUTPUTS = ("codes", "unit_lengths")


def export_onnx(bundle: SpeechBundle, path: str | os.PathLike[str], *, features: bool = True) -> list[Path]:
    """Write a tokenizer as an ONNX file, opset 18: wav to units, features included, batches and lengths of any size.

    Inputs: ``wav`` (batch, samples) float32 in [-1, 1] at the model's rate, padded to the longest, and ``lengths``
    (batch,) int64. Outputs: ``codes`` (batch, N, units) int64 and ``unit_lengths`` (batch,) int64. What they mean is
    in the file's metadata and in a JSON beside it (:func:`describe`).

    Args:
        bundle: the model.
        path: ``.onnx``.
        features: make the log-mels too. Without, the inputs are ``mel`` (batch, n_mels, frames) float32, of an even
            number of frames, and ``frames`` (batch,) int64.

    Returns:
        The files written.

    Raises:
        UserError: another suffix, or the packages ``onnx`` and ``onnxscript`` are not here.
    """
    target = _checked(path, ".onnx")
    try:
        import onnx_ir
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX export needs a package that is not here ({error.name}): pip install 'sqvae_speech[onnx]'"
        ) from None
    facts = {**describe(bundle, features), "opset": OPSET}
    with _quietly(), torch.no_grad(), _beside(target) as partial:
        graph = _graph(bundle, features)
        program = torch.onnx.export(
            graph["mod"],
            graph["args"],
            dynamo=True,
            dynamic_shapes=graph["dynamic_shapes"],
            input_names=facts["inputs"],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        model = program.model
        model.metadata_props.update(_as_text(facts))
        # by name, not by the formula that it follows from
        model.graph.outputs[0].shape = onnx_ir.Shape(["batch", bundle.model.num_codebooks, "units"])
        program.save(str(partial), external_data=False)
    return [target, _write_facts(target, facts)]


def export_compiled(bundle: SpeechBundle, path: str | os.PathLike[str], *, features: bool = True) -> list[Path]:
    """Compile a tokenizer with AOTInductor into a package that runs without its Python code, on a CPU like this one.

    ``torch._inductor.aoti_load_package(path)(wav, lengths)`` gives ``codes, unit_lengths``; see :func:`export_onnx`.
    The package holds machine code: a processor without this one's instructions cannot run it.

    Args:
        bundle: the model.
        path: ``.pt2``.
        features: see :func:`export_onnx`.

    Returns:
        The files written.

    Raises:
        UserError: another suffix, or there is no C++ compiler.
    """
    target = _checked(path, ".pt2")
    _require_compiler()
    from torch._inductor import aoti_compile_and_package

    facts = describe(bundle, features)
    with _quietly(), torch.no_grad(), _beside(target) as partial:
        program = torch.export.export(
            **_graph(bundle, features),
            # shapes that a convolution asks about are checked when it runs, not held against every other shape
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        options = {
            "aot_inductor.metadata": _as_text(facts),
            # its code for checking indices names a variable before it exists; all of ours are within bounds
            "assert_indirect_indexing": False,
        }
        aoti_compile_and_package(program, package_path=str(partial), inductor_configs=options)
    return [target, _write_facts(target, facts)]


def describe(bundle: SpeechBundle, features: bool = True) -> dict[str, Any]:
    """What a program has to know of an exported tokenizer and its units."""
    timing, rate = UnitTiming(bundle.mel_spec), bundle.mel_spec.sample_rate
    first, second = timing.span(0), timing.span(1)
    return {
        "format": f"sqvae_speech.{'wav' if features else 'mel'}_to_units",
        "inputs": ["wav", "lengths"] if features else ["mel", "frames"],
        "version": __version__,
        "sample_rate": rate,
        "least_samples": least_samples(bundle.mel_spec),
        "codebook_size": bundle.model.codebook_size,
        "num_codebooks": bundle.model.num_codebooks,
        "frame_rate": bundle.frame_rate,
        "first_unit_seconds": first[0] / rate,
        "unit_seconds": (second[0] - first[0]) / rate,
        "checkpoint": bundle.fingerprint,
        "mel_spec": bundle.mel_spec.to_dict(),
    }


def _checked(path: str | os.PathLike[str], suffix: str) -> Path:
    target = Path(path)
    if target.suffix != suffix:
        raise UserError(f"{target} does not end in {suffix}, which this form of a tokenizer does; name it so")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _graph(bundle: SpeechBundle, features: bool) -> dict[str, Any]:
    """A graph, inputs to trace it with, and which of their axes may have any size: arguments of the exporters."""
    spec, batch = bundle.mel_spec, torch.export.Dim("batch", min=1)
    if features:
        inputs = torch.zeros(2, spec.sample_rate), torch.tensor([spec.sample_rate, spec.sample_rate // 2])
        size = torch.export.Dim("samples", min=least_samples(spec))
        return {"mod": WavToUnits(bundle).eval(), "args": inputs, "dynamic_shapes": ({0: batch, 1: size}, {0: batch})}
    inputs = torch.zeros(2, spec.n_mels, 100), torch.tensor([100, 50])
    size = 2 * torch.export.Dim("pairs", min=3)
    return {"mod": MelToUnits(bundle).eval(), "args": inputs, "dynamic_shapes": ({0: batch, 2: size}, {0: batch})}


def _as_text(facts: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def _write_facts(target: Path, facts: dict[str, Any]) -> Path:
    path = target.with_name(f"{target.name}.json")
    with _beside(path) as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path of the same name in a folder beside ``target``, renamed to it when all went well."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        partial = Path(folder) / target.name
        yield partial
        os.replace(partial, target)


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "compiling needs a C++ compiler, and there is none: install g++ or clang++, or name one by the "
            "environment variable CXX; --format onnx needs none"
        ) from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Exporters tell of their own progress and of packages that are of no use here: nothing a user could act upon."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
