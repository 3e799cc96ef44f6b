"""ZeroSpeech 2019, "TTS without T": 100 speakers to learn units from, two voices to speak with (arXiv 1904.11469).

In the folder of a language, for English 16 kHz mono without transcripts::

    train/unit/S015_0361841101.wav            100 speakers, 5,941 recordings
    train/voice/V001_0000000047.wav           V001 and V002, 3,532 recordings
    train/parallel/source/S040_0598465739.wav  other speakers, and the same sentence by a voice, with the same number:
    train/parallel/voice/V001_0598465739.wav  (190, by the published SQ-VAE code's list)
    test/S002_0379088085.wav                  24 speakers who are in no training set; 13,529 recordings, nearly all
                                              of them single phones in context, a fraction of a second each
    synthesis.txt                             `S002_0379088085 V002`: what is to be spoken by which voice

Numbers: the lists of bshall/ZeroSpeech. Layout: the same lists, those of bootphon/zerospeech2020, and the script that
lays out a further language in the challenge's form.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from sqvae_speech.data.corpora.common import Division, Preparation, check_test, divide_rest, duration_of, write_splits
from sqvae_speech.data.corpora.recording_lists import read_recording_list
from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.data.preparation import LeftOut, entries_of, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

WHAT = "the folder of ZeroSpeech 2019 that has `english/` with `train/unit/` and `train/voice/` in it"
TRAIN = ("train/unit", "train/voice")
SOURCE, VOICE, TEST = "train/parallel/source", "train/parallel/voice", "test"
FOLDERS = (*TRAIN, SOURCE, VOICE, TEST)
# kind of test set -> the folder it is of
TESTS = {"parallel": VOICE, "source": SOURCE, "challenge": TEST}
LEFT_OUT = {
    SOURCE: "the parallel set's sources are not the test set chosen (--test source)",
    VOICE: "the parallel set's voices are not the test set chosen (--test parallel)",
    TEST: "the challenge's set is not the test set chosen (--test challenge)",
}


def prepare_zerospeech2019(
    corpus: str | Path,
    output: str | Path,
    *,
    language: str = "english",
    test: str = "parallel",
    train_list: str | Path | None = None,
    test_list: str | Path | None = None,
    fraction: float = 0.01,
    seed: int = 0,
    split_list: str | Path | None = None,
    max_bad: int = 0,
    progress: bool = True,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from ZeroSpeech 2019; recordings stay where they are.

    train is of ``train/unit`` and ``train/voice`` (speakers ``S0xx``, ``V001``, ``V002``), as in the published
    experiments; dev is taken out of it, about ``fraction`` of every speaker's utterances. ``test`` says what test is:

    - ``parallel``: the voices' recordings in ``train/parallel/voice``, on which the paper measures its error;
    - ``source``: the same sentences by other speakers, to be converted to the voices and compared with theirs;
    - ``challenge``: the challenge's own ``test``, to be encoded, and converted to the voices, for a submission.

    ``train_list`` and ``test_list`` take the recordings that a published list names, and no others: of
    bshall/ZeroSpeech (``train.json``, ``test.json``, ``synthesis.json``, also as csv), of the published SQ-VAE code
    (``mse_evaluation.json``), of bootphon/zerospeech2020 (``bitrate_filelist.txt``, ``embedding_filelist.txt``,
    ``required_filelist.txt``), or the corpus' ``synthesis.txt``; a test list says by itself which folder it is of.
    With ``fraction`` 0 train is then the very list.

    Utterance ids are ``S015-0361841101``. Beside the splits stand ``left_out.txt`` with the reason for everything
    else, and, of what is there, ``parallel.tsv`` (source recording, voice recording) and ``synthesis.tsv`` (utterance
    to be spoken, voice).

    Args:
        corpus: the folder that has the language's, or the language's folder.
        output: folder for the data directories.
        language: name of the language's folder: ``english``, or the ``surprise`` one.
        test: what test is made of.
        train_list: a list of recordings to train on, dev included.
        test_list: a list of recordings to test on, instead of ``test``.
        fraction: part of each speaker's utterances for dev.
        seed: of the choice of dev.
        split_list: take the splits of this list, see :func:`sqvae_speech.data.split_list.read_split_list`.
        max_bad: recordings that may be unreadable or empty.
        progress: show a progress bar.

    Raises:
        UserError: no such corpus, not this layout, an unknown ``test``, more than ``max_bad`` damaged recordings, a
            list that does not fit.
    """
    check_test(test, TESTS)
    root = _root(existing_corpus(corpus, WHAT), language)
    paths = sorted(path for path in root.rglob("*.wav") if path.is_file())
    there = {path.relative_to(root).as_posix()[: -len(".wav")] for path in paths}
    wanted = dict.fromkeys(TRAIN, "")  # folder -> the list that says which of it, or an empty string for all
    names: set[str] = set()
    if train_list is not None:
        names |= _listed(train_list, root, there, TRAIN, "--train-list")
        wanted = {folder: f"not in --train-list {Path(train_list).name}" for folder in TRAIN}
    tests = [TESTS[test]]
    if test_list is not None:
        tested = _listed(test_list, root, there, (VOICE, SOURCE, TEST), "--test-list")
        names |= tested
        tests = sorted({name.rpartition("/")[0] for name in tested})
        wanted |= {folder: f"not in --test-list {Path(test_list).name}" for folder in tests}
    else:
        wanted[TESTS[test]] = ""
    left_out: list[LeftOut] = []
    found: dict[str, Utterance] = {}
    in_test: set[str] = set()
    for path in tqdm(paths, desc="reading zerospeech 2019", unit="recording", disable=not progress):
        folder, name = path.parent.relative_to(root).as_posix(), path.relative_to(root).as_posix()
        match = re.fullmatch(r"([A-Z]\d+)_(\w+)", path.stem)
        if folder not in wanted:
            left_out.append(LeftOut(name, LEFT_OUT.get(folder, "not in a folder of the corpus")))
        elif not match:
            left_out.append(LeftOut(name, "file name is not {speaker}_{number}.wav"))
        elif wanted[folder] and name[: -len(".wav")] not in names:
            left_out.append(LeftOut(name, wanted[folder]))
        else:
            utterance_id = f"{match[1]}-{match[2]}"
            if utterance_id in found:
                raise UserError(f"duplicate utterance id {utterance_id!r}: {found[utterance_id].wav} and {path}")
            duration = duration_of(path, name, left_out)
            if duration is not None:
                found[utterance_id] = Utterance(utterance_id, match[1], str(path.resolve()), duration=duration)
                if folder in tests:
                    in_test.add(utterance_id)
    refuse_damage(left_out, max_bad)
    rest = [utterance for name, utterance in found.items() if name not in in_test]
    splits = divide_rest(rest, [found[name] for name in found if name in in_test], fraction, seed)
    method = "lists" if train_list or test_list else test
    result = write_splits(splits, left_out, output, Division(method, fraction, seed, split_list))
    _write_pairs(root, Path(output))
    return result


def _root(path: Path, language: str) -> Path:
    """Return the language's folder."""
    for root in (path / language, path / "2019" / language, path):
        if all((root / folder).is_dir() for folder in TRAIN):
            return root
    raise UserError(
        f"{path} is not ZeroSpeech 2019, or has no {language}/ (found {entries_of(path)}); --corpus takes {WHAT}, "
        "--language the name of the language's folder"
    )


def _listed(path: str | Path, root: Path, there: set[str], folders: tuple[str, ...], option: str) -> set[str]:
    """Return what a list names as paths below ``root`` without suffix, all of them there and in ``folders``."""
    names, unknown = set(), []
    for entry in read_recording_list(path, option):
        parts = entry.strip("/").split("/")
        stem = parts[-1]
        # a path counts from whatever folder above the corpus; a bare name is of the first folder that has it
        place = next((folder for folder in FOLDERS if f"/{'/'.join(parts[:-1])}".endswith(f"/{folder}")), None)
        if place == TEST and re.match(r"V\d", stem):
            continue  # required_filelist.txt: a conversion that is to be made, not a recording
        candidates = [place] if place else [folder for folder in folders if f"{folder}/{stem}" in there]
        if candidates and candidates[0] in folders and f"{candidates[0]}/{stem}" in there:
            names.add(f"{candidates[0]}/{stem}")
        else:
            unknown.append(entry)
    if unknown:
        raise UserError(
            f"{path} lists {len(unknown)} recordings, for instance {unknown[0]!r}, that {root} does not have in "
            f"{', '.join(folders)} ({option})"
        )
    return names


def _write_pairs(root: Path, output: Path) -> None:
    """Write ``parallel.tsv`` and ``synthesis.tsv``, each where the corpus has what it is made of."""
    numbers: Mapping[str, list[str]] = defaultdict(list)
    for path in sorted((root / SOURCE).glob("*.wav")):
        numbers[path.stem.partition("_")[2]].append(path.stem)
    pairs = [
        (source.replace("_", "-", 1), voice.stem.replace("_", "-", 1))
        for voice in sorted((root / VOICE).glob("*.wav"))
        for source in numbers.get(voice.stem.partition("_")[2], ())
    ]
    synthesis = []
    if (root / "synthesis.txt").is_file():
        for number, line in enumerate(read_text(root / "synthesis.txt").splitlines(), 1):
            columns = line.split()
            if len(columns) != 2:
                raise UserError(f"{root / 'synthesis.txt'}:{number}: {line!r} should be '<recording> <voice>'")
            synthesis.append((Path(columns[0]).stem.replace("_", "-", 1), columns[1]))
    tables = (("parallel.tsv", ("source", "voice"), pairs), ("synthesis.tsv", ("utterance", "voice"), synthesis))
    for name, heading, rows in tables:
        if rows:
            write_text(output / name, "".join("\t".join(row) + "\n" for row in (heading, *rows)))
        else:
            (output / name).unlink(missing_ok=True)
