"""ZeroSpeech 2019, "TTS without T": 100 speakers to learn units from, two voices to speak with (arXiv 1904.11469).

``<language>/train/unit/S015_0361841101.wav``, ``<language>/train/voice/V001_0000000047.wav``,
``<language>/train/parallel/{voice,source}/`` (sentences that a voice and other speakers read), and
``<language>/test/S002_0379088085.wav``, whose speakers are in no training set. 16 kHz, without transcripts.
"""

import re
from pathlib import Path

from tqdm import tqdm

from sqvae_speech.data.corpora.common import (
    LeftOut,
    Preparation,
    check_test,
    divide_rest,
    duration_of,
    entries_of,
    existing_corpus,
    refuse_damage,
    write_splits,
)
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.errors import UserError

WHAT = "the folder of ZeroSpeech 2019 that has `english/` with `train/unit/` and `train/voice/` in it"
TRAIN = ("train/unit", "train/voice")
# kind of test set -> the folder it is of
TESTS = {"parallel": "train/parallel/voice", "challenge": "test"}
LEFT_OUT = {
    "train/parallel/source": "read in parallel to a voice, by speakers of the test set",
    "train/parallel/voice": "the parallel set is not the test set chosen (--test)",
    "test": "the challenge's set is not the test set chosen (--test)",
}


def prepare_zerospeech2019(
    corpus: str | Path,
    output: str | Path,
    *,
    language: str = "english",
    test: str = "parallel",
    fraction: float = 0.01,
    seed: int = 0,
    max_bad: int = 0,
    progress: bool = True,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from ZeroSpeech 2019; recordings stay where they are.

    train is of ``train/unit`` and ``train/voice`` (speakers ``S0xx``, ``V001``, ``V002``), as in the published
    experiments; dev is taken out of it, about ``fraction`` of every speaker's utterances. ``test`` says what test is:

    - ``parallel``: the voices' recordings in ``train/parallel/voice``, on which the paper measures its error;
    - ``challenge``: the challenge's own ``test``, to be encoded, and converted to the voices, for a submission.

    Utterance ids are ``S015-0361841101``. Everything else is in ``output/left_out.txt`` with the reason.

    Args:
        corpus: the folder that has the language's, or the language's folder.
        output: folder for the data directories.
        language: name of the language's folder: ``english``, or the ``surprise`` one.
        test: what test is made of.
        fraction: part of each speaker's utterances for dev.
        seed: of the choice of dev.
        max_bad: recordings that may be unreadable or empty.
        progress: show a progress bar.

    Raises:
        UserError: no such corpus, not this layout, an unknown ``test``, more than ``max_bad`` damaged recordings.
    """
    check_test(test, TESTS)
    root = _root(existing_corpus(corpus, WHAT), language)
    left_out: list[LeftOut] = []
    found: dict[str, Utterance] = {}
    tested: set[str] = set()
    folders = [*TRAIN, TESTS[test]]
    paths = sorted(path for path in root.rglob("*.wav") if path.is_file())
    for path in tqdm(paths, desc="reading zerospeech 2019", unit="recording", disable=not progress):
        folder, name = path.parent.relative_to(root).as_posix(), path.relative_to(root).as_posix()
        match = re.fullmatch(r"([A-Z]\d+)_(\w+)", path.stem)
        if folder not in folders:
            left_out.append(LeftOut(name, LEFT_OUT.get(folder, "not in a folder of the corpus")))
        elif not match:
            left_out.append(LeftOut(name, "file name is not {speaker}_{number}.wav"))
        else:
            utterance_id = f"{match[1]}-{match[2]}"
            if utterance_id in found:
                raise UserError(f"duplicate utterance id {utterance_id!r}: {found[utterance_id].wav} and {path}")
            duration = duration_of(path, name, left_out)
            if duration is not None:
                found[utterance_id] = Utterance(utterance_id, match[1], str(path.resolve()), duration=duration)
                if folder == TESTS[test]:
                    tested.add(utterance_id)
    refuse_damage(left_out, max_bad)
    rest = [utterance for name, utterance in found.items() if name not in tested]
    splits = divide_rest(rest, [found[name] for name in found if name in tested], fraction, seed)
    return write_splits(splits, left_out, output)


def _root(path: Path, language: str) -> Path:
    """Return the language's folder."""
    for root in (path / language, path / "2019" / language, path):
        if all((root / folder).is_dir() for folder in TRAIN):
            return root
    raise UserError(
        f"{path} is not ZeroSpeech 2019, or has no {language}/ (found {entries_of(path)}); --corpus takes {WHAT}, "
        "--language the name of the language's folder"
    )
