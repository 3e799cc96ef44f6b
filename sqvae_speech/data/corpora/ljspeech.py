"""LJ Speech: 13,100 sentences of one English speaker, 24 h, 22,050 Hz (https://keithito.com/LJ-Speech-Dataset/).

``wavs/LJ001-0001.wav``, and ``metadata.csv`` with lines ``LJ001-0001|as written|with numbers spelt out``.
"""

from pathlib import Path

from tqdm import tqdm

from sqvae_speech.data.corpora.common import Division, Preparation, divide, duration_of, write_splits
from sqvae_speech.data.files import read_text
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.data.preparation import LeftOut, entries_of, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

SPEAKER = "LJ"
WHAT = "the folder of LJ Speech that has `wavs/` and `metadata.csv`"


def prepare_ljspeech(
    corpus: str | Path,
    output: str | Path,
    *,
    fraction: float = 0.02,
    seed: int = 0,
    split_list: str | Path | None = None,
    max_bad: int = 0,
    progress: bool = True,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from LJ Speech; recordings stay where they are.

    Utterance ids are the corpus' own, the speaker is ``LJ``, and ``text`` is the spelt-out form. Left out, with the
    reason in ``output/left_out.txt``: recordings without a line in ``metadata.csv``, and lines without a recording.

    Args:
        corpus: the corpus' folder, or the one that holds it.
        output: folder for the data directories.
        fraction: part of the utterances for dev, and for test.
        seed: of the splits.
        split_list: take the splits of this list, see :func:`sqvae_speech.data.split_list.read_split_list`.
        max_bad: recordings that may be unreadable or empty, and lines that may have none.
        progress: show a progress bar.

    Raises:
        UserError: no such corpus, not this layout, a line of another form, more than ``max_bad`` damaged recordings,
            a split list that does not fit.
    """
    path = existing_corpus(corpus, WHAT)
    root = path / "LJSpeech-1.1" if (path / "LJSpeech-1.1").is_dir() else path
    if not ((root / "wavs").is_dir() and (root / "metadata.csv").is_file()):
        raise UserError(f"{root} is not LJ Speech (found {entries_of(root)}); --corpus takes {WHAT}")
    texts = _texts(root / "metadata.csv")
    left_out: list[LeftOut] = []
    utterances: list[Utterance] = []
    wavs = sorted((root / "wavs").glob("*.wav"))
    for wav in tqdm(wavs, desc="reading ljspeech", unit="recording", disable=not progress):
        name = str(wav.relative_to(root))
        if wav.stem not in texts:
            left_out.append(LeftOut(name, "no line in metadata.csv"))
            continue
        duration = duration_of(wav, name, left_out)
        if duration is not None:
            text = texts[wav.stem]
            utterances.append(Utterance(wav.stem, SPEAKER, str(wav.resolve()), duration=duration, text=text))
    for name in sorted(set(texts) - {wav.stem for wav in wavs}):
        left_out.append(LeftOut(name, f"wavs/{name}.wav: not there, metadata.csv has it", damaged=True))
    refuse_damage(left_out, max_bad)
    division = Division("utterances", fraction, seed, split_list)
    return write_splits(divide(utterances, "utterances", fraction, seed), left_out, output, division)


def _texts(path: Path) -> dict[str, str]:
    """Return ``{utterance: the spelt-out text}``."""
    texts = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.split("|")
        if len(cells) != 3 or not cells[0] or not cells[2].strip():
            raise UserError(f"{path}:{number}: {line!r} should be '<id>|<as written>|<spelt out>'")
        texts[cells[0]] = " ".join(cells[2].split())
    return texts
