"""Manifests of Lhotse (https://lhotse.readthedocs.io), read as the JSON lines that they are: Lhotse is not needed.

``{"id", "sources": [{"type": "file", "source": PATH, ...}], "duration", ...}`` a recording, ``{"id", "recording_id",
"start", "duration", "text", "speaker", ...}`` a supervision, and a cut that has both in it, its supervisions'
``start`` counting from the cut's.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqvae_speech.data.corpora.common import Division, Preparation, divide, write_splits
from sqvae_speech.data.ids import escape_id, speaker_first
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.data.preparation import LeftOut, existing_corpus
from sqvae_speech.errors import UserError

WHAT = "cuts of Lhotse (*.jsonl or *.jsonl.gz), or a folder with one *recordings*.jsonl[.gz] and its *supervisions*"


def prepare_lhotse(
    corpus: str | Path,
    output: str | Path,
    *,
    test: str = "utterances",
    fraction: float = 0.05,
    seed: int = 0,
    split_list: str | Path | None = None,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from a Lhotse manifest; recordings stay where they are.

    A supervision is an utterance, a part of its recording. Its id is the supervision's, with the speaker in front
    where it does not begin with it, illegal characters as ``%XX``; paths become absolute. ``text`` is written when
    all have one. Alignments and custom fields are not read, a supervision's channel neither: of recordings with
    several, ``--channel`` of the next stage chooses. Left out, with the reason in ``output/left_out.txt``:
    supervisions without a speaker.

    Args:
        corpus: see :data:`WHAT`.
        output: folder for the data directories.
        test: what test is made of, see :func:`sqvae_speech.data.corpora.common.divide`.
        fraction: part of each speaker's utterances for dev, and for test; or of the speakers for test.
        seed: of the division.
        split_list: take the splits of this list, see :func:`sqvae_speech.data.split_list.read_split_list`.

    Raises:
        UserError: no such file, not this form, recordings that are not one file or not there, cuts that are mixed,
            padded or perturbed; a split list that does not fit.
    """
    path = existing_corpus(corpus, WHAT, folder_only=False)
    left_out: list[LeftOut] = []
    found: dict[str, Utterance] = {}
    for where, recording, supervision, offset in _from_folder(path) if path.is_dir() else _from_cuts(path):
        if not supervision.get("speaker"):
            left_out.append(LeftOut(supervision["id"], "the supervision has no speaker"))
            continue
        try:
            utterance = _utterance(where, recording, supervision, offset)
        except KeyError as error:
            raise UserError(f"{where}: an entry has no {error}; --corpus takes {WHAT}") from None
        if utterance.utterance_id in found:
            raise UserError(f"{where}: duplicate supervision {supervision['id']!r}")
        found[utterance.utterance_id] = utterance
    utterances = list(found.values())
    if not all(utterance.text for utterance in utterances):
        utterances = [replace(utterance, text=None) for utterance in utterances]
    division = Division(test, fraction, seed, split_list)
    return write_splits(divide(utterances, test, fraction, seed), left_out, output, division)


# where it stands, recording, supervision, seconds to add to the supervision's start
Entry = tuple[str, dict[str, Any], dict[str, Any], float]


def _utterance(where: str, recording: dict[str, Any], supervision: dict[str, Any], offset: float) -> Utterance:
    speaker = escape_id(supervision["speaker"])
    start, duration = offset + supervision["start"], supervision["duration"]
    return Utterance(
        speaker_first(speaker, escape_id(supervision["id"])),
        speaker,
        str(_audio(recording, where)),
        start=round(start, 6),
        end=round(start + duration, 6),
        duration=duration,
        text=" ".join((supervision.get("text") or "").split()) or None,
        recording=escape_id(recording["id"]),
    )


def _from_cuts(path: Path) -> Iterator[Entry]:
    for where, cut in _json_lines(path):
        kind = cut.get("type")
        if kind != "MonoCut":
            got = f"a {kind}" if kind else f"an entry with {', '.join(list(cut)[:4])}"
            raise UserError(f"{where}: {got}, not a MonoCut; --corpus takes {WHAT}")
        for supervision in cut["supervisions"]:
            yield where, cut["recording"], supervision, cut["start"]


def _from_folder(folder: Path) -> Iterator[Entry]:
    pairs = [
        (path, path.with_name(path.name.replace("recordings", "supervisions")))
        for path in sorted(folder.glob("*recordings*.jsonl*"))
    ]
    pairs = [pair for pair in pairs if pair[1].is_file()]
    if len(pairs) != 1:
        names = ", ".join(pair[0].name for pair in pairs) or "none"
        raise UserError(f"{folder} must have one manifest of recordings with its supervisions, found {names}")
    recordings = {recording["id"]: recording for _, recording in _json_lines(pairs[0][0])}
    for where, supervision in _json_lines(pairs[0][1]):
        if supervision["recording_id"] not in recordings:
            raise UserError(f"{where}: recording {supervision['recording_id']!r} is not in {pairs[0][0].name}")
        yield where, recordings[supervision["recording_id"]], supervision, 0.0


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every line's place and content."""
    number = 0
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines
        ):
            for number, line in enumerate(lines, 1):
                entry = json.loads(line)
                if not (isinstance(entry, dict) and "id" in entry):
                    raise UserError(f"{path}:{number}: no object with an id; --corpus takes {WHAT}")
                yield f"{path}:{number}", entry
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}:{number + 1}: cannot be read ({error}); --corpus takes {WHAT}") from None


def _audio(recording: dict[str, Any], where: str) -> Path:
    """Return the recording's file."""
    sources = recording.get("sources") or []
    if recording.get("transforms"):
        raise UserError(f"{where}: recording {recording['id']!r} is perturbed; give the manifest before that")
    if len(sources) != 1 or sources[0].get("type") != "file":
        kinds = ", ".join(str(source.get("type")) for source in sources) or "none"
        raise UserError(f"{where}: recording {recording['id']!r} has sources {kinds}; legal is one file")
    path = Path(sources[0]["source"])
    if not path.is_file():
        raise UserError(
            f"{where}: {path} of recording {recording['id']!r} is not there; relative paths are relative to the "
            f"working directory, now {Path.cwd()}"
        )
    return path.resolve()
