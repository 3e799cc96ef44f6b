"""Whole corpora of units as ESPnet and fairseq lay them out: units, texts, durations, speakers, dictionaries.

The files of units are those of :mod:`sqvae_speech.units.formats`; here is what stands beside them.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sqvae_speech.data.files import whole_folder, write_text
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.units.formats import write_format
from sqvae_speech.units.forms.base import join_codes
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitSource, UnitStore, deduplicated, expanded

Splits = Mapping[str, UnitStore]
DataDirs = Mapping[str, Path]


def write_corpus(
    form: str, stores: Splits, output: str | os.PathLike[str], data_dirs: DataDirs | None = None
) -> Path:
    """Write a folder that a toolkit can train on, whole or not at all.

    ``espnet``, of each split a data directory ``<split>/``: ``text``, ``utt2spk``, ``spk2utt``; ``text.km.<tag>``
    (its pseudo labels), ``text.ts.<tag>`` and ``text.rm.<tag>`` (asr2: a character a unit, with repeats and without),
    ``durations.rm.<tag>`` (``utt 2 1 3``, units of each character of the last); ``tokens.txt``, ``tokens.cjk.txt``;
    and where recordings are known ``wav.scp`` (and ``segments``). The tag is ``sqvae`` and the codebook's size.

    ``fairseq``, of each split ``<split>.km`` with ``.ids``, ``.units`` (the same deduplicated, with names) with
    ``.durations``, ``.wrd`` and ``.ltr`` (words, letters), ``.speakers``, line by line the same utterances; where
    recordings are known the manifest ``.tsv``; ``dict.km.txt``, and ``dict.ltr.txt`` of the first split.

    Texts and speakers that are not known are left out, for all utterances of a split.

    Args:
        form: of the two.
        stores: by the names of their splits; one codebook.
        output: the folder; there is none yet, or an empty one.
        data_dirs: data directories of the recordings, by split; those without are without recordings.

    Returns:
        The folder.

    Raises:
        UserError: another form, several codebooks, deduplicated units without durations, or nothing to write.
    """
    if form not in CORPORA:
        raise UserError(f"no corpus form {form!r}{nearest(form, CORPORA)}; legal: {', '.join(CORPORA)}")
    if not stores:
        raise UserError("no units to write a corpus of")
    output = Path(output)
    with whole_folder(output) as part:
        for number, (split, store) in enumerate(stores.items()):
            # what dictionaries are of is the first split, training
            CORPORA[form](part, split, store, (data_dirs or {}).get(split), number == 0)
    return output


def _espnet(folder: Path, split: str, store: UnitStore, data_dir: Path | None, first: bool) -> None:
    target = folder / split
    target.mkdir()
    tag = f"sqvae{store.meta.codebook_size}"
    steps, runs = expanded(store), deduplicated(store)
    write_format(target / f"text.km.{tag}", steps)
    write_format(target / f"text.ts.{tag}", steps)
    write_format(target / f"text.rm.{tag}", runs)
    _write_sorted(target / f"durations.rm.{tag}", runs, _durations)
    if all(units.text for units in store):
        _write_sorted(target / "text", store, lambda units: str(units.text))
    if all(units.speaker for units in store):
        _write_sorted(target / "utt2spk", store, lambda units: str(units.speaker))
        voices: dict[str, list[str]] = {}
        for units in sorted(store, key=_id):
            voices.setdefault(str(units.speaker), []).append(units.utterance_id)
        lines = [f"{speaker} {' '.join(names)}\n" for speaker, names in voices.items()]
        write_text(target / "spk2utt", "".join(sorted(lines, key=str.encode)))
    if data_dir is not None:
        names = set(store.ids)
        _write_recordings(
            target, [one for one in DataDir.read(data_dir, True).utterances if one.utterance_id in names]
        )


def _write_recordings(target: Path, utterances: Iterable[Utterance]) -> None:
    """``wav.scp`` with absolute paths, and ``segments`` where utterances are parts of recordings."""
    recordings, segments = {}, []
    for one in utterances:
        name = one.recording or one.utterance_id
        recordings[name] = one.wav if one.is_pipe else os.path.abspath(one.wav)
        if one.recording is not None:
            segments.append(f"{one.utterance_id} {name} {one.start} {-1 if one.end is None else one.end}\n")
    write_text(
        target / "wav.scp", "".join(f"{name} {recordings[name]}\n" for name in sorted(recordings, key=str.encode))
    )
    if segments:
        write_text(target / "segments", "".join(segments))


def _fairseq(folder: Path, split: str, store: UnitStore, data_dir: Path | None, first: bool) -> None:
    whole = data_dir is not None and all(
        one.recording is None and not one.is_pipe for one in DataDir.read(data_dir, True).utterances
    )
    write_format(folder / f"{split}.km", expanded(store), data_dir=data_dir if whole else None)
    write_format(folder / f"{split}.units", deduplicated(store))
    if all(units.text for units in store):
        _write_lines(folder / f"{split}.wrd", store, lambda units: " ".join(str(units.text).split()))
        _write_lines(folder / f"{split}.ltr", store, lambda units: " ".join(_letters(units)))
        if first:
            counts = Counter(letter for units in store for letter in _letters(units))
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            write_text(folder / "dict.ltr.txt", "".join(f"{letter} {count}\n" for letter, count in ranked))
    if all(units.speaker for units in store):
        _write_lines(folder / f"{split}.speakers", store, lambda units: str(units.speaker))


def _letters(units: UtteranceUnits) -> list[str]:
    """Of wav2vec 2.0's recipes: in upper case, a bar after each word."""
    return [letter for word in str(units.text).upper().split() for letter in [*word, "|"]]


def _durations(units: UtteranceUnits) -> str:
    assert units.durations is not None
    return join_codes(units.durations)


def _id(units: UtteranceUnits) -> bytes:
    return units.utterance_id.encode()


def _write_sorted(path: Path, source: UnitSource, value: Callable[[UtteranceUnits], str]) -> None:
    lines = {_id(units): f"{units.utterance_id} {value(units)}".rstrip() for units in source}
    write_text(path, "".join(f"{lines[name]}\n" for name in sorted(lines)))


def _write_lines(path: Path, source: UnitSource, value: Callable[[UtteranceUnits], str]) -> None:
    write_text(path, "".join(f"{value(units)}\n" for units in source))


CORPORA: dict[str, Callable[[Path, str, UnitStore, Path | None, bool], None]] = {
    "espnet": _espnet,
    "fairseq": _fairseq,
}
