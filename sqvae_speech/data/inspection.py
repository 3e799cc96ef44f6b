"""What a data directory or a folder of shards holds: counts, hours, speakers, levels."""

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sqvae_speech.audio.front_end import CLIPPED_LEVEL
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir
from sqvae_speech.data.shard_folder import is_shards
from sqvae_speech.data.tables import format_facts, format_table
from sqvae_speech.errors import UserError

QUIET = 0.01  # largest sample, linear (-40 dB of full scale): too quiet for the noise that 16 bits have


def summarize(folder: str | Path) -> dict[str, Any]:
    """Return what a folder holds, as plain values for JSON.

    Common to both kinds: ``kind``, ``utterances``, ``hours``, ``seconds`` (shortest, longest, mean; None where
    durations are unknown), ``speakers`` (id -> utterances, hours), ``with_text``, ``with_ali``. Of a data directory
    also ``recordings``, ``commands`` and ``segments``; of shards ``split``, ``mel_spec``, ``dtype``, ``shards``,
    ``bytes``, ``frames``, ``bad``, and where the samples say it ``recording_sample_rates`` and ``peaks`` (lowest,
    median, highest, number clipped, number quiet).

    Raises:
        UserError: neither of the two, or one that is not whole.
    """
    return _of_shards(Path(folder)) if is_shards(folder) else _of_data_dir(Path(folder))


def _of_data_dir(folder: Path) -> dict[str, Any]:
    data = DataDir.read(folder, allow_pipes=True)  # commands are counted, not run
    seconds = [utterance.duration for utterance in data]
    recordings = {utterance.recording or utterance.utterance_id: utterance for utterance in data}
    return {
        "kind": "data directory",
        **_counts([utterance.speaker for utterance in data], seconds),
        "with_text": sum(bool(utterance.text) for utterance in data),
        "with_ali": sum(bool(utterance.ali) for utterance in data),
        "recordings": len(recordings),
        "commands": sum(utterance.is_pipe for utterance in recordings.values()),
        "segments": (folder / "segments").is_file(),
    }


def _of_shards(folder: Path) -> dict[str, Any]:
    index = ShardIndex.load(folder)
    speakers: list[str] = []
    seconds: list[float | None] = []
    peaks: list[float] = []
    rates: dict[str, int] = {}
    with_text = with_ali = clipped = 0
    for meta in tqdm(_metas(index), total=index.num_utterances, desc=f"reading {folder}", disable=None, leave=False):
        speakers.append(meta["speaker"])
        seconds.append(meta["num_samples"] / meta["sample_rate"])
        with_text += bool(meta.get("text"))
        with_ali += bool(meta.get("ali"))
        clipped += meta.get("clipped", False)
        if "peak" in meta:
            peaks.append(meta["peak"])
        if "recording_sample_rate" in meta:
            rate = str(meta["recording_sample_rate"])
            rates[rate] = rates.get(rate, 0) + 1
    summary: dict[str, Any] = {
        "kind": "shards",
        "split": index.split,
        **_counts(speakers, seconds),
        "with_text": with_text,
        "with_ali": with_ali,
        "mel_spec": index.mel_spec.to_dict(),
        "dtype": index.dtype,
        "shards": len(index.shards),
        "bytes": sum(shard.bytes for shard in index.shards),
        "frames": index.num_frames,
        "bad": index.bad_values(),
        "recording_sample_rates": dict(sorted(rates.items(), key=lambda item: -item[1])),
    }
    if peaks:
        summary["peaks"] = {
            "lowest": min(peaks),
            "median": statistics.median(peaks),
            "highest": max(peaks),
            "clipped": clipped,
            "quiet": sum(peak < QUIET for peak in peaks),
        }
    return summary


def _metas(index: ShardIndex) -> Iterator[Mapping[str, Any]]:
    """Yield the ``json`` of every sample, shard by shard, without reading the mels."""
    entries = index.entries()
    for number, path in enumerate(index.shard_paths()):
        with path.open("rb") as file:
            for entry in entries:
                if entry.shard == number:
                    file.seek(entry.json[0])
                    try:
                        yield json.loads(file.read(entry.json[1]))
                    except ValueError:
                        raise UserError(
                            f"{path} does not hold the json of {entry.utterance_id!r} where its list says; "
                            f"`sqvae-speech data validate {index.folder}` says what else is wrong"
                        ) from None


def _counts(speakers: list[str], seconds: list[float | None]) -> dict[str, Any]:
    known = [value for value in seconds if value is not None]
    table: dict[str, dict[str, Any]] = {}
    for speaker, value in zip(speakers, seconds, strict=True):
        row = table.setdefault(speaker, {"utterances": 0, "hours": None if value is None else 0.0})
        row["utterances"] += 1
        if value is not None:
            row["hours"] += value / 3600
    return {
        "utterances": len(speakers),
        "hours": sum(known) / 3600 if known else None,
        "seconds": {"shortest": min(known), "longest": max(known), "mean": statistics.fmean(known)}
        if known
        else None,
        "speakers": dict(sorted(table.items())),
    }


def format_summary(summary: Mapping[str, Any], num_speakers: int = 20) -> str:
    """Return a summary as lines for people.

    Args:
        summary: of :func:`summarize`.
        num_speakers: rows of the table of speakers at most; 0 for all.
    """
    seconds = summary["seconds"]
    rows = [
        ("utterances", f"{summary['utterances']:,}"),
        ("speakers", f"{len(summary['speakers']):,}"),
        (
            "duration",
            f"{summary['hours']:.3f} h; shortest {seconds['shortest']:.2f} s, mean {seconds['mean']:.2f} s, longest "
            f"{seconds['longest']:.2f} s"
            if seconds
            else "unknown, there is no utt2dur",
        ),
        ("text", _of_all(summary["with_text"], summary["utterances"])),
        ("ali", _of_all(summary["with_ali"], summary["utterances"])),
    ]
    rows += _shard_rows(summary) if summary["kind"] == "shards" else _directory_rows(summary)
    lines = [format_facts(rows)]
    lines += [f"  {bad['utterance_id']}: {bad['reason']}" for bad in summary.get("bad", ())]
    speakers = list(summary["speakers"].items())
    shown = speakers[: num_speakers or None]
    lines += ["", format_table(("speaker", "utterances", "hours", "mean s"), [_speaker(*item) for item in shown])]
    if len(shown) < len(speakers):
        lines.append(f"{len(speakers) - len(shown)} more; --speakers 0 shows all")
    return "\n".join(lines)


def _of_all(number: int, total: int) -> str:
    return {0: "none", total: "all"}.get(number, f"{number:,} utterances")


def _speaker(name: str, row: Mapping[str, Any]) -> list[str]:
    hours = row["hours"]
    known = ["", ""] if hours is None else [f"{hours:.3f}", f"{3600 * hours / row['utterances']:.2f}"]
    return [name, str(row["utterances"]), *known]


def _directory_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    commands = f", {summary['commands']:,} of them commands" if summary["commands"] else ""
    parts = "; utterances are parts of them (segments)" if summary["segments"] else ""
    return [("recordings", f"{summary['recordings']:,}{commands}{parts}")]


def _shard_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    spec = summary["mel_spec"]
    rows = [
        ("mel spec", f"{spec['name']}: {spec['sample_rate']} Hz, hop {spec['hop_length']}, {spec['n_mels']} mels"),
        (
            "shards",
            f"{summary['shards']:,} of split {summary['split']}, {summary['frames']:,} frames in {summary['dtype']}, "
            f"{summary['bytes'] / 1e6:.1f} MB",
        ),
    ]
    rates = [f"{rate} Hz ({count:,})" for rate, count in summary["recording_sample_rates"].items()]
    if rates:
        rows.append(("recorded at", ", ".join(rates)))
    peaks = summary.get("peaks")
    if peaks:
        rows.append(
            (
                "peaks",
                f"{peaks['lowest']:.3f} to {peaks['highest']:.3f} of full scale, median {peaks['median']:.3f}; "
                f"clipped (from {CLIPPED_LEVEL}): {peaks['clipped']:,}, quiet (below {QUIET}): {peaks['quiet']:,}",
            )
        )
    rows.append(("left out", f"{len(summary['bad']):,} as unusable" if summary["bad"] else "none"))
    return rows
