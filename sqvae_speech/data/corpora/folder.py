"""Any folder of recordings, at whatever depth, with the speaker somewhere in the path."""

import re
from pathlib import Path

import soundfile
from tqdm import tqdm

from sqvae_speech.data.corpora.common import Division, Preparation, divide, duration_of, write_splits
from sqvae_speech.data.files import read_text
from sqvae_speech.data.ids import escape_id, speaker_first
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.data.preparation import LeftOut, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

WHAT = "a folder of recordings in any format that soundfile reads (wav, flac, ogg, mp3, ...), at any depth"
SUFFIXES = frozenset(
    {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"}
    | {".aif", ".opus", ".oga"}
    | {".aac", ".m4a", ".webm", ".wma"}  # by torchaudio, see read_wav
)
FOLDER = "([^/]+)/[^/]+$"  # the name of the folder that a recording lies in


def prepare_folder(
    corpus: str | Path,
    output: str | Path,
    *,
    speaker: str = FOLDER,
    text_suffix: str = "",
    test: str = "utterances",
    fraction: float = 0.05,
    seed: int = 0,
    split_list: str | Path | None = None,
    max_bad: int = 0,
    progress: bool = True,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from a folder of recordings, which stay where they are.

    An utterance's id is its speaker, a hyphen, and the recording's path below ``corpus`` without suffix, slashes as
    hyphens and illegal characters as ``%XX`` (:func:`sqvae_speech.data.ids.escape_id`); the speaker is not repeated
    where the path begins with it. Left out, with the reason in ``output/left_out.txt``: recordings whose path has no
    speaker, and, with ``text_suffix``, those without a transcript.

    Args:
        corpus: the folder.
        output: folder for the data directories.
        speaker: regular expression, searched in the path below ``corpus`` (folders separated by ``/``); its first
            group is the speaker. The default takes the name of the recording's folder; ``^([^_/]+)_`` what stands
            before the first underscore of files that lie side by side.
        text_suffix: of a transcript beside each recording, such as ``.txt``; without one there is no ``text``.
        test: what test is made of, see :func:`sqvae_speech.data.corpora.common.divide`.
        fraction: part of each speaker's utterances for dev, and for test; or of the speakers for test.
        seed: of the splits.
        split_list: take the splits of this list, see :func:`sqvae_speech.data.split_list.read_split_list`.
        max_bad: recordings that may be unreadable or empty.
        progress: show a progress bar.

    Raises:
        UserError: no such folder, no recording in it, a pattern that is none or has no group, two recordings of one
            id, more than ``max_bad`` damaged recordings, a split list that does not fit.
    """
    root = existing_corpus(corpus, WHAT)
    pattern = _compiled(speaker)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{root} has no recording; --corpus takes {WHAT}")
    left_out: list[LeftOut] = []
    utterances: dict[str, Utterance] = {}
    for path in tqdm(paths, desc="reading recordings", unit="recording", disable=not progress):
        name = path.relative_to(root).as_posix()
        match = pattern.search(name)
        if not (match and match[1]):
            left_out.append(LeftOut(name, f"no speaker: the path does not match {speaker}"))
            continue
        text = None
        if text_suffix:
            transcript = path.with_suffix(text_suffix)
            text = " ".join(read_text(transcript).split()) if transcript.is_file() else ""
            if not text:
                left_out.append(LeftOut(name, f"no transcript with suffix {text_suffix}"))
                continue
        who = escape_id(match[1])
        utterance_id = speaker_first(who, escape_id(name.rpartition(".")[0].replace("/", "-")))
        if utterance_id in utterances:
            raise UserError(
                f"two recordings would be {utterance_id!r}: {utterances[utterance_id].wav} and {path}; rename one"
            )
        duration = duration_of(path, name, left_out)
        if duration is not None:
            utterances[utterance_id] = Utterance(utterance_id, who, str(path.resolve()), duration=duration, text=text)
    if not utterances and not any(item.damaged for item in left_out):
        raise UserError(
            f"none of the {len(paths)} recordings of {root} can be used, for instance {left_out[0].name}: "
            f"{left_out[0].reason} (--speaker, --text-suffix)"
        )
    refuse_damage(left_out, max_bad)
    division = Division(test, fraction, seed, split_list)
    return write_splits(divide(utterances.values(), test, fraction, seed), left_out, output, division)


def _compiled(speaker: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(speaker)
    except re.error as error:
        raise UserError(f"--speaker {speaker!r} is no regular expression: {error}") from None
    if not pattern.groups:
        raise UserError(f"--speaker {speaker!r} has no group: put parentheses around the speaker, as in {FOLDER!r}")
    return pattern
