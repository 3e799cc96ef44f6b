"""LibriSpeech: about 1,000 h of read English, 16 kHz (Panayotov et al., ICASSP 2015; openslr.org/12, CC BY 4.0).

``LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac``, with the chapter's transcripts in
``<speaker>-<chapter>.trans.txt`` beside them; ``SPEAKERS.TXT`` and ``CHAPTERS.TXT`` at the top tell about both.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sqvae_speech.data.corpora import common
from sqvae_speech.data.corpora.common import (
    Division,
    Preparation,
    check_test,
    divide,
    divide_rest,
    duration_of,
    write_splits,
)
from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.data.preparation import LeftOut, entries_of, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

SUBSETS = (
    *("train-clean-100", "train-clean-360", "train-other-500"),
    *("dev-clean", "dev-other", "test-clean", "test-other"),
)
TESTS = (*common.TESTS, "subsets")
TABLES = {
    "SPEAKERS.TXT": ("speaker", "sex", "subset", "minutes", "name"),
    "CHAPTERS.TXT": ("chapter", "speaker", "minutes", "subset", "project", "book", "title", "project_title"),
}
WHAT = f"the folder LibriSpeech that has subsets in it ({', '.join(SUBSETS)})"


class _Recording(NamedTuple):
    """A recording found, and where it belongs."""

    path: Path
    subset: str
    speaker: str
    chapter: str


def prepare_librispeech(
    corpus: str | Path,
    output: str | Path,
    *,
    subsets: Sequence[str] = (),
    test: str = "utterances",
    fraction: float = 0.05,
    seed: int = 0,
    require_text: bool = True,
    split_list: str | Path | None = None,
    max_bad: int = 0,
    progress: bool = True,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from LibriSpeech; recordings stay where they are.

    dev is always of utterances whose speakers are in train: a decoder with speaker embeddings cannot be validated on
    others. ``test`` says what test is made of:

    - ``utterances``: of the training speakers too, about ``fraction`` of each one's, as dev;
    - ``speakers``: all that a ``fraction`` of the speakers say, who are in neither train nor dev;
    - ``subsets``: the corpus' own test subsets among ``subsets``, whose speakers no training subset has. (Its dev
      subsets are of other speakers than its training subsets, too: name them here to have them in test.)

    Utterance ids are the corpus' own (``198-209-0000``). Beside the splits stand ``speakers.tsv`` and
    ``chapters.tsv``, what SPEAKERS.TXT and CHAPTERS.TXT tell about the speakers and chapters in use, and
    ``left_out.txt`` with the reason for every recording that is in no split.

    Args:
        corpus: the folder ``LibriSpeech``, the one that holds it, or one of its subsets.
        output: folder for the data directories.
        subsets: names of subsets; empty for all training subsets that are there (for ``test="subsets"`` the test
            subsets too), or if there is none for all.
        test: what test is made of.
        fraction: part of each speaker's utterances for dev, and for test; or of the speakers for test.
        seed: of the splits.
        require_text: leave out recordings without transcript; if False, all are taken and no ``text`` is written.
        split_list: take the splits of this list, see :func:`sqvae_speech.data.split_list.read_split_list`.
        max_bad: recordings that may be unreadable or empty.
        progress: show a progress bar.

    Raises:
        UserError: no such corpus, not this layout, an unknown subset or ``test``, a subset that is not there, more
            than ``max_bad`` damaged recordings, a split list that does not fit.
    """
    check_test(test, TESTS)
    root, present = _layout(existing_corpus(corpus, WHAT))
    chosen = _chosen(root, present, subsets, test)
    left_out: list[LeftOut] = []
    recordings = [recording for subset in chosen for recording in _recordings(root, subset, left_out)]
    texts: dict[Path, dict[str, str]] = {}
    utterances: dict[str, Utterance] = {}
    source: dict[str, _Recording] = {}
    for recording in tqdm(recordings, desc="reading librispeech", unit="recording", disable=not progress):
        path, name = recording.path, str(recording.path.relative_to(root))
        text = None
        if require_text:
            transcripts = path.with_name(f"{recording.speaker}-{recording.chapter}.trans.txt")
            if transcripts not in texts:
                texts = {transcripts: _transcripts(transcripts)}  # recordings come chapter by chapter
            text = texts[transcripts].get(path.stem)
            if not text:
                left_out.append(LeftOut(name, "no transcript (--no-text takes it without)"))
                continue
        if path.stem in source:
            raise UserError(f"duplicate utterance id {path.stem!r}: {source[path.stem].path} and {path}; keep one")
        duration = duration_of(path, name, left_out)
        if duration is None:
            continue
        wav = str(path.resolve())
        utterances[path.stem] = Utterance(path.stem, recording.speaker, wav, duration=duration, text=text)
        source[path.stem] = recording
    refuse_damage(left_out, max_bad)
    if test == "subsets":
        rest = [u for name, u in utterances.items() if source[name].subset.startswith("train")]
        tested = [u for name, u in utterances.items() if not source[name].subset.startswith("train")]
        splits = divide_rest(rest, tested, fraction, seed)
    else:
        splits = divide(utterances.values(), test, fraction, seed)
    result = write_splits(splits, left_out, output, Division(test, fraction, seed, split_list))
    used = {
        "SPEAKERS.TXT": {recording.speaker for recording in source.values()},
        "CHAPTERS.TXT": {recording.chapter for recording in source.values()},
    }
    for table, columns in TABLES.items():
        if (root / table).is_file():
            lines = ["\t".join(columns), *_table(root / table, len(columns), used[table])]
            write_text(Path(output) / f"{table[:-4].lower()}.tsv", "".join(f"{line}\n" for line in lines))
    return result


def _layout(path: Path) -> tuple[Path, list[str]]:
    """Return the corpus' root and the subsets it has; it may be a folder above or below ``path``."""
    path = path.resolve()
    for root in (path, path / "LibriSpeech", path.parent):
        present = [subset for subset in SUBSETS if (root / subset).is_dir()]
        if root == path.parent and path.name not in present:
            continue
        if present:
            return root, [path.name] if root == path.parent else present
    raise UserError(f"{path} is not LibriSpeech (found {entries_of(path)}); --corpus takes {WHAT}")


def _chosen(root: Path, present: list[str], wanted: Sequence[str], test: str) -> list[str]:
    for subset in wanted:
        if subset not in SUBSETS:
            raise UserError(f"unknown subset {subset!r}; LibriSpeech has {', '.join(SUBSETS)} (--subsets)")
        if subset not in present:
            raise UserError(f"{root} has no subset {subset}; there are {', '.join(present)} (--subsets)")
    if wanted:
        chosen = [subset for subset in SUBSETS if subset in wanted]
    else:
        kinds = ("train", "test") if test == "subsets" else ("train",)
        chosen = [subset for subset in present if subset.startswith(kinds)] or present
    if test == "subsets" and not any(subset.startswith("train") for subset in chosen):
        raise UserError(f"--test subsets needs a training subset; chosen are {', '.join(chosen)} (--subsets)")
    if test == "subsets" and all(subset.startswith("train") for subset in chosen):
        raise UserError(f"--test subsets needs a dev or test subset; chosen are {', '.join(chosen)} (--subsets)")
    return chosen


def _recordings(root: Path, subset: str, left_out: list[LeftOut]) -> Iterator[_Recording]:
    """Yield the recordings of a subset in the order of their names; files of other names go to ``left_out``."""
    for path in sorted((root / subset).glob("*/*/*.flac")):
        speaker, chapter = path.parts[-3:-1]
        if re.fullmatch(rf"{re.escape(speaker)}-{re.escape(chapter)}-\d+", path.stem):
            yield _Recording(path, subset, speaker, chapter)
        else:
            left_out.append(
                LeftOut(str(path.relative_to(root)), "file name is not {speaker}-{chapter}-{number}.flac")
            )


def _transcripts(path: Path) -> dict[str, str]:
    """Return ``{utterance: words}`` of a chapter's file; none when there is no such file."""
    if not path.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in read_text(path).splitlines())
    return {words[0]: " ".join(words[1].split()) for words in lines if len(words) == 2}


def _table(path: Path, columns: int, used: set[str]) -> Iterator[str]:
    """Yield the lines of SPEAKERS.TXT or CHAPTERS.TXT whose first column is in ``used``, separated by tabs."""
    for line in read_text(path).splitlines():
        if not line.startswith(";"):
            cells = [cell.strip() for cell in line.split("|", maxsplit=columns - 1)]  # a name may have a bar in it
            if cells[0] in used:
                yield "\t".join(cells)
