"""A small JSON beside every export: what the form cannot say, so that reading it back loses no more than it must.

Codebook size and number, frame rate, whether runs are collapsed, the features and the model. Other toolkits do not
look at it; a file that came without one is read with options.
"""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from sqvae_speech.data.files import read_text
from sqvae_speech.errors import UserError
from sqvae_speech.units.forms.base import Form, Outputs, ReadOptions
from sqvae_speech.units.meta import UnitStoreMeta, with_frame_rate

VERSION = 1


def sidecar_path(path: Path, form: Form) -> Path:
    """Of a file or a folder of units."""
    if form.folder:
        return path / "units.json"
    if path.suffix == ".ark":  # an archive and its table are one
        path = path.with_suffix(".scp")
    return path.with_name(f"{path.name}.json")


def write_sidecar(outputs: Outputs, path: Path, form: Form, name: str, meta: UnitStoreMeta, utterances: int) -> None:
    """Write it, for a form's name and the metadata of what was exported."""
    values = {"version": VERSION, "form": name, "utterances": utterances, **asdict(meta)}
    outputs.text(sidecar_path(path, form)).write(json.dumps(values, indent=1, sort_keys=True) + "\n")


class Described(NamedTuple):
    """What is known of a file before it is read: the meaning of its codes, and how many utterances it should have."""

    meta: UnitStoreMeta
    utterances: int | None


def describe(path: Path, form: Form, options: ReadOptions) -> Described:
    """What is known of a file, by its sidecar, its dictionary and the options, which must not contradict.

    Raises:
        UserError: they do; or nothing says how large the codebook is.
    """
    known, utterances = _read_sidecar(sidecar_path(path, form)) or (None, None)
    said: dict[str, dict[str, Any]] = {}  # who says what
    if known is not None:
        said[str(sidecar_path(path, form))] = {
            "codebook_size": known.codebook_size,
            "num_codebooks": known.num_codebooks,
        }
    dictionary = None if form.dictionary is None else path.with_name(form.dictionary.name)
    if form.dictionary is not None and dictionary is not None and dictionary.is_file():
        size, books = form.dictionary.read(dictionary)
        said[str(dictionary)] = {"codebook_size": size}
        if form.several_codebooks:
            said[str(dictionary)]["num_codebooks"] = books
    said["the option given"] = {
        name: getattr(options, name)
        for name in ("codebook_size", "num_codebooks")
        if getattr(options, name) is not None
    }
    size = _agreed("codebook_size", said)
    if size is None:
        beside = f", and there is no {dictionary} beside it" if dictionary else ""
        raise UserError(f"{path}: nothing says how large the codebook is{beside}; give --codebook-size")
    books = _agreed("num_codebooks", said) or 1
    if books > 1 and not form.several_codebooks:
        raise UserError(f"{path}: {books} codebooks, and the form holds one; leave out --num-codebooks")
    meta = replace(known, codebook_size=size) if known is not None else UnitStoreMeta(size, books)
    if form.runs is not None or options.deduplicated:
        meta = replace(meta, deduplicated=_runs(path, form, known, options))
    if form.extend is not None and known is None:
        meta = form.extend(path, meta)
    return Described(with_frame_rate(meta, options.frame_rate), utterances)


def _runs(path: Path, form: Form, known: UnitStoreMeta | None, options: ReadOptions) -> bool:
    if form.runs is False and options.deduplicated:
        raise UserError(f"{path}: units of this form are never deduplicated; leave out --already-deduplicated")
    if known is not None and options.deduplicated and not known.deduplicated:
        raise UserError(
            f"{path}: --already-deduplicated given, and {path.name}.json says that it is not; leave it out"
        )
    return options.deduplicated or bool(form.runs)


def _agreed(name: str, said: dict[str, dict[str, Any]]) -> Any:
    """The one value that is said, None when nobody says any."""
    who, value = None, None
    for other, values in said.items():
        if name not in values:
            continue
        if who is not None and values[name] != value:
            raise UserError(
                f"{who} has a {name} of {value}, not {values[name]} as {other}: units of another model, or a wrong "
                "value given"
            )
        who, value = other, values[name]
    return value


def _read_sidecar(path: Path) -> Described | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(read_text(path))
        version = values["version"]
        meta = {field.name: values[field.name] for field in fields(UnitStoreMeta) if field.name in values}
        read = Described(UnitStoreMeta(**meta), values["utterances"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not what an export wrote ({error}); remove it, and say what it said by options"
        ) from None
    if version > VERSION:
        raise UserError(f"{path}: written by a newer sqvae_speech (version {version}, this one reads {VERSION})")
    return read
