"""The embedded default corpus: synthetic voices in VCTK's layout with all phone intervals (made by ``egs/mini``)."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.data.corpora.common import Preparation
from sqvae_speech.data.corpora.vctk import prepare_vctk
from sqvae_speech.data.files import read_text
from sqvae_speech.data.kaldi import Interval
from sqvae_speech.data.preparation import existing_corpus
from sqvae_speech.errors import UserError

WHAT = "the folder that egs/mini/run.sh makes: VCTK's layout with a file `ali` beside `txt/`"


def prepare_mini(
    corpus: str | Path,
    output: str | Path,
    *,
    test_speakers: Sequence[str] = (),
    fraction: float = 0.05,
    seed: int = 0,
    split_list: str | Path | None = None,
    max_bad: int = 0,
    progress: bool = True,
) -> Preparation:
    """Write ``output/{train,dev,test}`` with phone intervals; splits and ids as in :func:`prepare_vctk`.

    The corpus has VCTK's layout and, at its root, ``ali``: lines ``utterance onset offset phone`` in seconds, where
    the utterance is a recording's name (``m01_003`` for ``m01/m01_003_mic1.flac``).

    Raises:
        UserError: as :func:`prepare_vctk`; no ``ali``, a line of it that is malformed, recordings without intervals.
    """
    root = existing_corpus(corpus, WHAT)
    if not (root / "ali").is_file():
        raise UserError(f"{root} has no file `ali`; --corpus takes {WHAT}. A corpus without one: `prepare vctk`")
    ali = _read_ali(root / "ali")
    result = prepare_vctk(
        root,
        output,
        test_speakers=test_speakers,
        fraction=fraction,
        seed=seed,
        split_list=split_list,
        max_bad=max_bad,
        progress=progress,
        ali=ali,
    )
    for data in result.splits.values():
        for utterance in data:
            if not utterance.ali:
                raise UserError(f"{root / 'ali'} has no line for {utterance.utterance_id!r}; make the corpus again")
    return result


def _read_ali(path: Path) -> dict[str, tuple[Interval, ...]]:
    intervals: dict[str, list[Interval]] = defaultdict(list)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        columns = line.split()
        try:
            recording, onset, offset, label = columns
            interval = Interval(float(onset), float(offset), label)
        except ValueError:
            raise UserError(f"{path}:{number}: {line!r} should be '<utterance> <onset> <offset> <phone>'") from None
        speaker, _, sentence = re.sub(r"_mic[12]$", "", recording).rpartition("_")
        intervals[f"{speaker}-{sentence}"].append(interval)
    return {name: tuple(sorted(items, key=lambda item: item.onset)) for name, items in intervals.items()}
