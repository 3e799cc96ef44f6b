"""VCTK: 110 English speakers, about 400 sentences each, 48 kHz (CSTR, https://doi.org/10.7488/ds/2645, CC BY 4.0).

Two layouts are in use, and both are read:

- 0.92: ``wav48_silence_trimmed/p225/p225_001_mic1.flac`` (and ``_mic2``), ``txt/p225/p225_001.txt``;
- 0.80: ``wav48/p225/p225_001.wav``, ``txt/p225/p225_001.txt``.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from sqvae_speech.data.corpora import known_bad
from sqvae_speech.data.corpora.common import (
    TESTS,
    Division,
    Preparation,
    check_test,
    divide,
    divide_by_voices,
    duration_of,
    write_splits,
)
from sqvae_speech.data.files import read_text
from sqvae_speech.data.ids import check_id
from sqvae_speech.data.kaldi import Interval, Utterance
from sqvae_speech.data.preparation import LeftOut, entries_of, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

MICS = ("mic1", "mic2")
WHAT = "the folder of VCTK that has `wav48_silence_trimmed/` (0.92) or `wav48/` (0.80), and `txt/`"


def prepare_vctk(
    corpus: str | Path,
    output: str | Path,
    *,
    mic: str = "mic1",
    test: str = "utterances",
    test_speakers: Sequence[str] = (),
    fraction: float = 0.05,
    seed: int = 0,
    require_text: bool = True,
    keep_known_bad: bool = False,
    split_list: str | Path | None = None,
    max_bad: int = 0,
    progress: bool = True,
    ali: Mapping[str, tuple[Interval, ...]] | None = None,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from VCTK, or any corpus in its layout; recordings stay where they are.

    Splits by :func:`sqvae_speech.data.splits.split_by_sentence`: all speakers are in train; dev and test each get
    about ``fraction`` of every speaker's sentences, and no text that is read in one split is read in another (the
    24 sentences of the rainbow passage and the elicitation paragraph are read by nearly all speakers). With ``test``
    ``speakers`` test is instead all that a ``fraction`` of the speakers say, who are in neither train nor dev; what
    they have in common with the others, who read it in train, is only those 24 sentences.

    Utterance ids are ``p225-001``. Left out, with the reason in ``output/left_out.txt``: the other microphone's
    recordings; speakers that have no recording of ``mic`` (p280 and p315 have no mic2); recordings without transcript
    (all of p315's) unless ``require_text`` is False; file names of another form; and the recordings that
    :data:`sqvae_speech.data.corpora.known_bad.VCTK` lists, unless ``keep_known_bad``.

    Args:
        corpus: the corpus' folder, or the folder that holds it.
        output: folder for the data directories.
        mic: ``mic1`` (omni-directional) or ``mic2`` (small diaphragm condenser), for the 0.92 layout.
        test: what test is made of, ``utterances`` or ``speakers``.
        test_speakers: test is all that these say, in place of speakers drawn.
        fraction: part of each speaker's utterances for dev, and for test; or of the speakers for test.
        seed: of the splits.
        require_text: leave out recordings without transcript; if False, all are taken and no ``text`` is written.
        keep_known_bad: take the recordings that are known to be bad, too.
        split_list: take the splits of this list, see :func:`sqvae_speech.data.split_list.read_split_list`.
        max_bad: recordings that may be unreadable or empty.
        progress: show a progress bar.
        ali: intervals by utterance id, for corpora that have them.

    Raises:
        UserError: no such corpus, not this layout, an unknown ``mic``, ``test`` or speaker, more than ``max_bad``
            damaged recordings, a split list that does not fit.
    """
    check_test(test, TESTS)
    if mic not in MICS:
        raise UserError(f"unknown microphone {mic!r}; VCTK 0.92 has {' and '.join(MICS)} (--mic)")
    root, audio = _layout(existing_corpus(corpus, WHAT))
    if require_text and not (root / "txt").is_dir():
        raise UserError(f"{root} has no txt/ folder; --corpus takes {WHAT}. Without transcripts: --no-text")
    left_out: list[LeftOut] = []
    chosen = _choose(audio, mic if audio.name != "wav48" else None, left_out)
    utterances: list[Utterance] = []
    for path in tqdm(chosen, desc=f"reading {audio.name}", unit="recording", disable=not progress):
        name = str(path.relative_to(root))
        speaker, sentence = path.parent.name, _sentence(path)
        utterance_id = f"{speaker}-{sentence}"
        if utterance_id in known_bad.VCTK and not keep_known_bad:
            left_out.append(LeftOut(name, str(known_bad.VCTK[utterance_id])))
            continue
        text = _transcript(root / "txt" / speaker / f"{speaker}_{sentence}.txt") if require_text else None
        if require_text and not text:
            published = ", the corpus has none of this speaker" if speaker in known_bad.VCTK_WITHOUT_TEXT else ""
            left_out.append(LeftOut(name, f"no transcript in txt/{published}"))
            continue
        try:
            check_id(speaker, name, "speaker")
        except UserError as error:
            left_out.append(LeftOut(name, str(error), damaged=True))
            continue
        duration = duration_of(path, name, left_out)
        if duration is None:
            continue
        utterances.append(
            Utterance(
                utterance_id,
                speaker,
                str(path.resolve()),
                duration=duration,
                text=text,
                ali=(ali or {}).get(utterance_id, ()),
            )
        )
    refuse_damage(left_out, max_bad)
    if test_speakers:
        splits = divide_by_voices(utterances, test_speakers, fraction, seed, _text_or_number)
        method = f"test speakers {' '.join(test_speakers)}"
    else:
        splits = divide(utterances, test, fraction, seed, _text_or_number)
        method = "sentences" if test == "utterances" else test
    return write_splits(splits, left_out, output, Division(method, fraction, seed, split_list))


def _layout(path: Path) -> tuple[Path, Path]:
    """Return the corpus' root and its folder of recordings; both may lie a folder deeper than ``path``."""
    for root in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
        for name in ("wav48_silence_trimmed", "wav48"):
            if (root / name).is_dir():
                return root, root / name
    raise UserError(f"{path} is not VCTK (found {entries_of(path)}); --corpus takes {WHAT}")


def _sentence(path: Path) -> str:
    return re.sub(r"_mic[12]$", "", path.stem)[len(path.parent.name) + 1 :]


def _choose(audio: Path, mic: str | None, left_out: list[LeftOut]) -> list[Path]:
    """Return one recording an utterance, sorted; what is not chosen goes to ``left_out``."""
    suffix = f"_{mic}" if mic else ""
    chosen, others = [], defaultdict(list)
    for path in sorted(path for path in audio.glob("*/*") if path.suffix in (".flac", ".wav")):
        name = str(path.relative_to(audio.parent))
        speaker = re.escape(path.parent.name)
        if re.fullmatch(rf"{speaker}_[^_.\s]+{suffix}", path.stem):
            chosen.append(path)
        elif mic and re.fullmatch(rf"{speaker}_[^_.\s]+_mic[12]", path.stem):
            others[path.parent.name, _sentence(path)].append(name)
        else:
            form = f"{{speaker}}_{{sentence}}{suffix}"
            left_out.append(LeftOut(name, f"file name is not {form}{path.suffix}"))
    have = {(path.parent.name, _sentence(path)) for path in chosen}
    speakers = {path.parent.name for path in chosen}
    for (speaker, sentence), names in others.items():
        reason = "other microphone"
        if (speaker, sentence) not in have:
            reason = f"not recorded with {mic}" if speaker in speakers else f"speaker has no recording of {mic}"
            if mic == "mic2" and speaker in known_bad.VCTK_WITHOUT_MIC2:
                reason = "speaker has no recording of mic2: technical problems, by the corpus' README"
        left_out += [LeftOut(name, reason) for name in names]
    if not chosen:
        example = next((item.name for item in left_out), "no wav or flac")
        raise UserError(
            f"{audio} has no recording named {{speaker}}/{{speaker}}_{{sentence}}{suffix} (found {example})"
        )
    duplicates = [path for path, after in itertools.pairwise(chosen) if path.stem == after.stem]
    for path in duplicates:
        raise UserError(f"duplicate recording {path.stem!r}: {path.name} in two formats in {path.parent}; keep one")
    return chosen


def _transcript(path: Path) -> str:
    return " ".join(read_text(path).split()) if path.is_file() else ""


def _text_or_number(utterance: Utterance) -> str:
    """Return the words alone, so that punctuation and case do not make two sentences of one; the number without."""
    words = " ".join(re.findall(r"[\w']+", (utterance.text or "").lower()))
    return words if utterance.text else utterance.utterance_id.partition("-")[2]
