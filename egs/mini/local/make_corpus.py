"""Make the mini corpus: ten synthetic English voices, phone-aligned, in the layout of VCTK 0.92.

espeak-ng, through the PyPI package ``espeakng-loader``, speaks the sentences of ``sentences.txt`` and reports the
sample at which each phone begins. Nothing is downloaded, and the same package gives the same bytes on every run.

Written to the output folder, at 22,050 Hz, mono, 16 bit::

    wav48_silence_trimmed/p301/p301_001_mic1.flac    txt/p301/p301_001.txt    speaker-info.txt
    ali            lines "utterance_id onset offset phone" (seconds, IPA without stress, SIL), sorted, without gaps
    corpus.json    the marker of a finished corpus: version, counts, a checksum of the samples and the alignment

The number in an utterance id is the sentence's: the first ones are spoken by every voice, each of the others by one.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

import soundfile
from espeak import SAMPLE_RATE, SILENCE, Espeak, align, pad

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

FORMAT = 1  # raise it when the code below changes what is written
PADDING = 0.15  # seconds of silence before and after each sentence
SENTENCES = Path(__file__).with_name("sentences.txt")
MARKER = "corpus.json"


@dataclass(frozen=True)
class Voice:
    """A speaker: espeak's accent and timbre (``voices/!v``), its pitch (0 to 99) and rate (words a minute)."""

    speaker: str
    gender: str
    accent: str
    language: str
    variant: str
    pitch: int = 50
    rate: int = 165


Plan = dict[Voice, list[tuple[str, str]]]

# Timbres without espeak's echo, which would smear one phone over the next.
VOICES = (
    Voice("p301", "F", "American", "gmw/en-US", "f1", pitch=55),
    Voice("p302", "M", "American", "gmw/en-US", "m3"),
    Voice("p303", "F", "English", "gmw/en", "linda"),
    Voice("p304", "M", "English", "gmw/en", "paul", pitch=40, rate=155),
    Voice("p305", "F", "Scottish", "gmw/en-GB-scotland", "steph"),
    Voice("p306", "M", "Scottish", "gmw/en-GB-scotland", "m1", pitch=75, rate=175),
    Voice("p307", "F", "Caribbean", "gmw/en-029", "Annie"),
    Voice("p308", "M", "Lancastrian", "gmw/en-GB-x-gbclan", "m7", rate=160),
    Voice("p309", "F", "RP", "gmw/en-GB-x-rp", "aunty", pitch=45, rate=160),
    Voice("p310", "M", "WestMidlands", "gmw/en-GB-x-gbcwmd", "klatt4", pitch=60, rate=170),
)


def read_sentences(path: Path = SENTENCES) -> tuple[list[str], list[str]]:
    """The sentences under ``[shared]`` and those under ``[own]``."""
    sections: dict[str, list[str]] = {"[shared]": [], "[own]": []}
    section = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections[line.strip()]
        elif line.strip() and not line.startswith("#") and section is not None:
            section.append(line.strip())
    return sections["[shared]"], sections["[own]"]


def plan(speakers: Sequence[str] | None = None, max_utterances: int | None = None) -> Plan:
    """Who says what: each voice's (utterance id, sentence), in order; of some speakers, or the first utterances."""
    known = [voice.speaker for voice in VOICES]
    for speaker in speakers or ():
        if speaker not in known:
            raise UserError(f"no speaker {speaker!r} in the mini corpus; its speakers are {', '.join(known)}")
    shared, own = read_sentences()
    numbered = list(enumerate(shared + own, start=1))
    return {
        voice: [
            (f"{voice.speaker}_{number:03d}", sentence)
            for number, sentence in numbered[: len(shared)] + numbered[len(shared) + turn :: len(VOICES)]
        ][:max_utterances]
        for turn, voice in enumerate(VOICES)
        if speakers is None or voice.speaker in speakers
    }


def make_voice(root: Path, voice: Voice, utterances: Sequence[tuple[str, str]]) -> tuple[list[str], int, str]:
    """Write one voice's recordings and texts: its lines of ``ali``, its samples, a checksum of both."""
    espeak = Espeak()
    espeak.choose(f"{voice.language}+{voice.variant}", voice.pitch, voice.rate)
    wavs, texts = root / "wav48_silence_trimmed" / voice.speaker, root / "txt" / voice.speaker
    wavs.mkdir(parents=True)
    texts.mkdir(parents=True)
    lines: list[str] = []
    num_samples, checksum = 0, hashlib.sha256()
    for utterance_id, sentence in utterances:
        wav, events = espeak.say(sentence)
        wav, phones = pad(wav, align(wav, events), round(PADDING * SAMPLE_RATE))
        soundfile.write(wavs / f"{utterance_id}_mic1.flac", wav, SAMPLE_RATE, subtype="PCM_16")
        (texts / f"{utterance_id}.txt").write_text(sentence + "\n", encoding="utf-8")
        ends = [sample for sample, _ in phones[1:]] + [len(wav)]
        for (onset, phone), offset in zip(phones, ends, strict=True):
            lines.append(f"{utterance_id} {onset / SAMPLE_RATE:.6f} {offset / SAMPLE_RATE:.6f} {phone}\n")
        num_samples += len(wav)
        checksum.update(wav.tobytes())
    checksum.update("".join(lines).encode())
    return lines, num_samples, checksum.hexdigest()


def corpus_version(voices: Plan, engine: str) -> str:
    """A short hash of all that decides what the corpus holds."""
    recipe = [FORMAT, SAMPLE_RATE, PADDING, engine, [[asdict(voice), said] for voice, said in voices.items()]]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def finished(root: Path, version: str) -> bool:
    """Whether ``root`` holds the whole corpus of this version; a UserError when it holds something of the user's."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
        recordings = sum(1 for _ in root.glob("wav48_silence_trimmed/*/*_mic1.flac"))
        whole = (root / "ali").is_file() and recordings == marker["utterances"]
        return bool(marker["version"] == version and whole)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{root} exists and is not a mini corpus (no readable {MARKER} in it), so it is left alone; "
            "remove it or name another folder"
        ) from None


def make_corpus(output: Path, said: Plan, num_workers: int = 1, force: bool = False) -> dict[str, object]:
    """Make the corpus that ``said`` plans at ``output`` unless it is there already; returns the marker's contents.

    It is built beside its place and renamed when whole, so ``output`` never holds half a corpus.
    """
    version = corpus_version(said, f"{Espeak().version}, espeakng-loader {metadata.version('espeakng-loader')}")
    if finished(output, version) and not force:
        return json.loads((output / MARKER).read_text(encoding="utf-8")) | {"made": False}
    output.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (output.parent / f".{output.name}.{what}-{os.getpid()}" for what in ("partial", "old"))
    try:
        partial.mkdir()
        # espeak keeps state from one utterance to the next: a fresh process a voice makes it the same each time
        with ProcessPoolExecutor(num_workers, get_context("spawn"), max_tasks_per_child=1) as pool:
            jobs = [pool.submit(make_voice, partial, voice, utterances) for voice, utterances in said.items()]
            voices = [job.result() for job in jobs]
        (partial / "ali").write_text("".join(line for lines, _, _ in voices for line in lines), encoding="utf-8")
        table = [f"{v.speaker}  -  {v.gender}  {v.accent}  espeak-ng {v.language}+{v.variant}\n" for v in said]
        (partial / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS  REGION COMMENTS\n" + "".join(table))
        phones = [line.split()[3] for lines, _, _ in voices for line in lines]
        marker: dict[str, object] = {
            "version": version,
            "speakers": len(voices),
            "utterances": sum(map(len, said.values())),
            "minutes": round(sum(num_samples for _, num_samples, _ in voices) / SAMPLE_RATE / 60, 2),
            "phones": sum(phone != SILENCE for phone in phones),
            "phone_set": sorted(set(phones)),
            "sha256": hashlib.sha256("".join(checksum for _, _, checksum in voices).encode()).hexdigest(),
        }
        (partial / MARKER).write_text(json.dumps(marker, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if output.exists():
            output.rename(old)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return marker | {"made": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and make the corpus."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0], formatter_class=argparse.HelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the corpus; a finished one is not made again")
    parser.add_argument("--num-workers", type=int, default=1, help="voices spoken at a time (default: 1)")
    parser.add_argument("--speakers", nargs="+", metavar="ID", help="only these, for a quick try (default: all ten)")
    parser.add_argument("--max-utterances", type=int, metavar="N", help="only the first N of each speaker")
    parser.add_argument("--force", action="store_true", help="make it again even if it is finished")
    args = parser.parse_args(argv)
    if args.num_workers < 1:
        parser.error(f"--num-workers must be 1 or more, not {args.num_workers}")
    if args.max_utterances is not None and args.max_utterances < 1:
        parser.error(f"--max-utterances must be 1 or more, not {args.max_utterances}")
    corpus = make_corpus(args.output, plan(args.speakers, args.max_utterances), args.num_workers, args.force)
    print(
        f"{args.output}: {'made' if corpus['made'] else 'already there,'} {corpus['minutes']} min, "
        f"{corpus['speakers']} speakers, {corpus['utterances']} utterances, {corpus['phones']} phones"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
