"""Kaldi data directories that are there already, of any corpus and recipe."""

from dataclasses import replace
from pathlib import Path

from sqvae_speech.data.corpora.common import Division, Preparation, divide, write_splits
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.preparation import entries_of, existing_corpus
from sqvae_speech.data.splits import SPLITS
from sqvae_speech.errors import UserError

WHAT = "a Kaldi data directory (wav.scp, utt2spk, ...), or the folder of such as train/, and possibly dev/ and test/"


def prepare_kaldi(
    corpus: str | Path,
    output: str | Path,
    *,
    test: str = "utterances",
    fraction: float = 0.05,
    seed: int = 0,
    split_list: str | Path | None = None,
    allow_pipes: bool = False,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from data directories; recordings stay where they are.

    Directories ``train``, ``dev`` and ``test`` are taken as they are; a single directory is divided. Paths of
    recordings become absolute (Kaldi's are relative to the folder that its recipe runs in: run this there).

    Args:
        corpus: see :data:`WHAT`.
        output: folder for the data directories.
        test: what test is made of, see :func:`sqvae_speech.data.corpora.common.divide`; for a single directory.
        fraction: part of each speaker's utterances for dev, and for test; or of the speakers for test.
        seed: of the division.
        split_list: take the splits of this list, see :func:`sqvae_speech.data.split_list.read_split_list`.
        allow_pipes: take commands in wav.scp (lines that end in ``|``), which later stages run.

    Raises:
        UserError: no such folder, not this layout, a directory that breaks a rule of the format, ``output`` the same
            as ``corpus``, recordings that are not there, a split list that does not fit.
    """
    root = existing_corpus(corpus, WHAT).resolve()
    if root == Path(output).resolve():
        raise UserError(f"--output {output} is the corpus itself; give another folder")
    folders = [root / split for split in SPLITS if (root / split / "wav.scp").is_file()]
    if (root / "wav.scp").is_file():
        divided = divide(_utterances(root, allow_pipes), test, fraction, seed)
        return write_splits(divided, [], output, Division(test, fraction, seed, split_list))
    if root / "train" not in folders:
        raise UserError(
            f"{root} has neither wav.scp nor train/wav.scp (found {entries_of(root)}); --corpus takes {WHAT}"
        )
    given = {folder.name: _utterances(folder, allow_pipes) for folder in folders}
    return write_splits(given, [], output, Division("as in the corpus", split_list=split_list))


def _utterances(folder: Path, allow_pipes: bool) -> list[Utterance]:
    found = []
    for utterance in DataDir.read(folder, allow_pipes=allow_pipes):
        if not utterance.is_pipe:
            path = Path(utterance.wav)
            if not path.is_file():
                raise UserError(
                    f"{folder}/wav.scp: {utterance.wav} of {utterance.utterance_id!r} is not there; relative paths "
                    f"are relative to the working directory, now {Path.cwd()}"
                )
            utterance = replace(utterance, wav=str(path.resolve()))
        found.append(utterance)
    return found
