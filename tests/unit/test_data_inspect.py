"""``sqvae-speech data``: what a folder holds, everything that is wrong with it, and a look at an utterance."""

import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from data_fixtures import RATE, make_data_dir, voice, write
from matplotlib.image import imread

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.bin.main import main
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.inspection import summarize
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.shard_folder import file_sha256
from sqvae_speech.data.shards import write_shards


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three speakers with four utterances each, in a data directory and in three shards of four."""
    root = tmp_path_factory.mktemp("made")
    make_data_dir(root / "train")
    for name, level in (("s0-001", 1.0), ("s0-002", 0.005)):  # one clipped, one quiet
        path = root / "wavs" / f"{name}.wav"
        wav, _ = soundfile.read(path)
        write(path, np.clip(wav / np.abs(wav).max() * level * (1.2 if level == 1.0 else 1.0), -1, 1))
    write_shards(root / "train", root / "dump", MelSpec.preset("sqvae16k"), utterances_per_shard=4, progress=False)
    return root


@pytest.fixture
def dump(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "dump", tmp_path / "dump"))


def durations(made: Path) -> dict[str, float]:
    """Seconds of every recording, by soundfile."""
    return {path.stem: soundfile.info(path).duration for path in (made / "wavs").glob("*.wav")}


@pytest.mark.parametrize("kind", ["train", "dump"])
def test_summary_counts(made, kind):
    summary, seconds = summarize(made / kind), durations(made)
    assert summary["utterances"] == 12
    assert summary["hours"] == pytest.approx(sum(seconds.values()) / 3600, abs=1e-8)
    assert summary["seconds"] == pytest.approx(
        {"shortest": min(seconds.values()), "longest": max(seconds.values()), "mean": sum(seconds.values()) / 12},
        abs=1e-4,
    )
    assert list(summary["speakers"]) == ["s0", "s1", "s2"]
    for speaker, row in summary["speakers"].items():
        own = [value for name, value in seconds.items() if name.startswith(speaker)]
        assert row["utterances"] == 4
        assert row["hours"] == pytest.approx(sum(own) / 3600, abs=1e-8)
    assert summary["with_text"] == summary["with_ali"] == 12


def test_summary_of_shards(made, capsys):
    peaks = {path.stem: np.abs(soundfile.read(path)[0]).max() for path in (made / "wavs").glob("*.wav")}
    summary = summarize(made / "dump")
    assert summary["mel_spec"] == MelSpec.preset("sqvae16k").to_dict()
    assert (summary["dtype"], summary["shards"]) == ("float32", 3)
    assert summary["bytes"] == sum(path.stat().st_size for path in (made / "dump").glob("*.tar"))
    assert summary["recording_sample_rates"] == {"16000": 12}
    assert summary["peaks"] == {
        "lowest": pytest.approx(min(peaks.values()), abs=1e-6),
        "median": pytest.approx(np.median(list(peaks.values())), abs=1e-6),
        "highest": pytest.approx(max(peaks.values()), abs=1e-6),
        "clipped": 1,
        "quiet": 1,
    }
    assert main(["data", "summary", str(made / "dump"), "--speakers", "2"]) == 0
    out = capsys.readouterr().out
    for pattern in (
        r"utterances +12\n",
        r"mel spec +sqvae16k: 16000 Hz, hop 160, 80 mels",
        r"shards +3 of split train, [\d,]+ frames in float32, \d\.\d MB",
        r"clipped \(from 0.999\): 1, quiet \(below 0.01\): 1",
        r"left out +none",
        r"s0 +4  0.000 +0.3[0-9]\n",
        r"1 more; --speakers 0 shows all",
    ):
        assert re.search(pattern, out), pattern
    assert "\ns2 " not in out


def test_summary_names_what_was_left_out(made, tmp_path, capsys):
    shutil.copytree(made / "train", tmp_path / "train")
    data = DataDir.read(tmp_path / "train")
    silent = write(tmp_path / "s3-000.wav", np.zeros(RATE, np.float32))
    DataDir([*data, Utterance("s3-000", "s3", str(silent), duration=1.0, text="x")]).write(tmp_path / "train")
    spec = MelSpec.preset("sqvae16k")
    write_shards(tmp_path / "train", tmp_path / "dump", spec, max_bad=1, progress=False)
    assert main(["data", "summary", str(tmp_path / "dump")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"left out +1 as unusable\n  s3-000: .*silent", out)
    assert [item["utterance_id"] for item in summarize(tmp_path / "dump")["bad"]] == ["s3-000"]
    assert main(["data", "show", str(tmp_path / "dump"), "s3-000"]) == 1
    assert re.search(r"'s3-000' was left out of .*: .*silent", capsys.readouterr().err)


def test_summary_as_json_of_several_folders(made, capsys):
    assert main(["data", "summary", "--json", str(made / "train"), str(made / "dump")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [str(made / "train"), str(made / "dump")]
    assert [summary["kind"] for summary in found.values()] == ["data directory", "shards"]
    assert found[str(made / "dump")] == summarize(made / "dump")


def test_summary_of_a_directory_without_durations_with_segments_and_commands(tmp_path, capsys):
    path = write(tmp_path / "long.wav", voice(2.0))
    DataDir(
        [
            *(Utterance(f"a-{n}", "a", str(path), start=n, end=n + 1.0, recording="long") for n in range(2)),
            Utterance("b-0", "b", f"cat {path} |", recording="piped"),
        ]
    ).write(tmp_path / "data")
    assert main(["data", "summary", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"duration +unknown, there is no utt2dur", out)
    assert re.search(r"recordings +2, 1 of them commands; utterances are parts of them \(segments\)", out)
    assert re.search(r"text +none", out)
    assert re.search(r"^a +2$", out, re.MULTILINE)
    assert main(["data", "summary", "--speakers", "-1", str(tmp_path / "data")]) == 1
    assert main(["data", "summary", str(tmp_path)]) == 1
    assert "is not a Kaldi data directory: it has no wav.scp" in capsys.readouterr().err


# ---- validate


def faults(capsys, *folders: Path, options: tuple[str, ...] = ()) -> list[str]:
    """Run ``data validate``; return the faults it lists. What it exits with and counts has to agree with them."""
    capsys.readouterr()
    status = main(["data", "validate", *options, *map(str, folders)])
    err = capsys.readouterr().err
    found = re.findall(r"^  (.*)", err, re.MULTILINE)
    if not found:
        assert status == 0
        return []
    assert status == 1
    assert f"error: {len(found)} fault{'s' if len(found) > 1 else ''} in " in err
    return found


def seal(dump: Path) -> None:
    """Make index and lists agree with the shards' bytes, so that only what is in them can be found wrong."""
    index = ShardIndex.load(dump)
    shards = []
    for shard in index.shards:
        path, sidecar = dump / shard.name, dump / shard.sidecar
        shard = replace(shard, sha256=file_sha256(path), bytes=path.stat().st_size)
        state = json.loads(sidecar.read_text())
        state["shard"] = vars(shard)
        sidecar.write_text(json.dumps(state))
        shards.append(shard)
    replace(index, shards=tuple(shards)).save()


def place(dump: Path, utterance_id: str) -> tuple[Path, list]:
    """Shard and row of an utterance, out of the lists beside the shards."""
    for sidecar in sorted(dump.glob("train-*.json")):
        for row in json.loads(sidecar.read_text())["utterances"]:
            if row[0] == utterance_id:
                return sidecar.with_suffix(".tar"), row
    raise AssertionError(utterance_id)


def patch(dump: Path, utterance_id: str, member: int, find: bytes, put: bytes, last: bool = False) -> None:
    """Replace bytes within a member (3: the mel, 4: the json) by as many others."""
    tar, row = place(dump, utterance_id)
    offset, size = row[member]
    data = bytearray(tar.read_bytes())
    content = bytes(data[offset : offset + size])
    at = len(content) - len(put) if last else content.index(find)
    assert last or len(find) == len(put)
    data[offset + at : offset + at + len(put)] = put
    tar.write_bytes(data)


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_whole_shards_and_directories_are_valid(made, capsys):
    assert faults(capsys, made / "dump", made / "train", options=("--audio",)) == []
    assert main(["data", "validate", str(made / "dump"), str(made / "train")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r".*dump: valid \(3 shards, mel sqvae16k; 12 utterances, 3 speakers, 0\.001 h\)", lines[0])
    assert re.fullmatch(r".*train: valid \(Kaldi data directory; 12 utterances, 3 speakers, 0\.001 h\)", lines[1])


def test_all_damaged_shards_are_listed(dump, capsys):
    first, second, third = sorted(dump.glob("*.tar"))
    first.unlink()
    whole = second.read_bytes()
    second.write_bytes(whole[:-20_000])
    data = bytearray(third.read_bytes())
    data[5000] ^= 255
    third.write_bytes(data)
    found = faults(capsys, dump)
    assert "train-000000.tar: is missing" in found
    size = f"train-000001.tar: is truncated: {len(whole) - 20_000} bytes, index.json says {len(whole)}"
    assert size in found
    assert any(fault.startswith("train-000001.tar: is no whole tar (") for fault in found)
    assert any(re.match(r"train-000001.tar: lacks s1-003\.(mel\.npy|json)", fault) for fault in found)
    assert "train-000002.tar: has changed (SHA-256 differs from index.json's)" in found


def test_every_number_has_to_be_finite(dump, capsys):
    patch(dump, "s1-002", 3, b"", struct.pack("<ff", np.nan, np.inf), last=True)
    seal(dump)
    (fault,) = faults(capsys, dump)
    assert re.fullmatch(r"train-000001.tar: s1-002.mel.npy has 2 of \d+ values that are NaN or infinite", fault)


def test_headers_have_to_say_what_the_list_says(dump, capsys):
    patch(dump, "s0-000", 3, b"(80, ", b"(8, 1")  # another shape, in as many bytes
    patch(dump, "s2-000", 3, b"<f4", b"<i4")
    patch(dump, "s2-001", 3, b"\x93NUMPY", b"\x93NUMPI")
    seal(dump)
    found = faults(capsys, dump)
    assert len(found) == 3
    assert found[0].startswith("train-000000.tar: s0-000.mel.npy is ")
    assert re.fullmatch(r"train-000002.tar: s2-000.mel.npy is .* int32, it should be \(80, \d+\) float32", found[1])
    assert found[2].startswith("train-000002.tar: s2-001.mel.npy is no array (")


def test_the_json_of_a_sample_has_to_agree(dump, capsys):
    patch(dump, "s0-001", 4, b'"speaker": "s0"', b'"speaker": "s1"')
    patch(dump, "s0-002", 4, b'{"utterance_id"', b'["utterance_id"')
    seal(dump)
    found = faults(capsys, dump)
    assert len(found) == 2
    assert "s0-001.json is of ('s0-001', 's1', " in found[0]
    assert found[1] == "train-000000.tar: s0-002.json cannot be read, or lacks what it should say"
    assert main(["data", "summary", str(dump)]) == 1
    assert "does not hold the json of 's0-002' where its list says" in capsys.readouterr().err


def test_lists_have_to_agree_with_the_shards(dump, capsys):
    def change(state):
        state["utterances"][0][3][0] += 512
        state["utterances"][1][2] += 1
        del state["utterances"][3]

    edit(dump / "train-000001.json", change)
    found = faults(capsys, dump)
    assert any(re.match(r"train-000001.tar: s1-000.mel.npy lies at \(\d+, \d+\), its list says", f) for f in found)
    assert any("s1-001.mel.npy is (80, " in fault for fault in found)
    assert any("s1-001.json is of ('s1-001', 's1', " in fault for fault in found)
    assert {f"train-000001.tar: holds s1-003{s}, which its list does not have" for s in (".json", ".mel.npy")} <= set(
        found
    )
    assert "train-000001.tar: its list has 3 utterances, index.json 4" in found
    assert any(re.match(r"train-000001.tar: its list has \d+ frames, index.json \d+$", f) for f in found)
    assert len(found) == 7


def test_the_index_has_to_agree_with_its_shards(dump, capsys):
    edit(dump / "index.json", lambda values: values.update(num_utterances=13, speakers=["s0", "s1", "s9"]))
    shutil.copy(dump / "train-000002.tar", dump / "train-000003.tar")
    found = faults(capsys, dump)
    assert found == [
        "index.json: num_utterances is 13, its shards give 12",
        "train-000003.tar: is not in index.json",
        "index.json: its speakers are not those of its shards (s2, s9)",
    ]


def test_an_utterance_in_two_shards(dump, capsys):
    for suffix in (".tar", ".json"):
        shutil.copy(dump / f"train-000000{suffix}", dump / f"train-000001{suffix}")
    state = json.loads((dump / "train-000000.json").read_text())
    state["shard"]["name"] = "train-000001.tar"
    (dump / "train-000001.json").write_text(json.dumps(state))
    edit(dump / "index.json", lambda values: values["shards"].__setitem__(1, state["shard"]))
    found = faults(capsys, dump)
    assert "train-000001.tar: 's0-000' is in train-000000.tar too" in found
    assert "index.json: its speakers are not those of its shards (s1)" in found


def test_every_bad_recording_and_every_bad_folder_is_listed(made, tmp_path, capsys):
    shutil.copytree(made / "wavs", tmp_path / "wavs")
    shutil.copytree(made / "train", tmp_path / "train")
    scp = tmp_path / "train" / "wav.scp"
    scp.write_text(scp.read_text().replace(str(made), str(tmp_path)))
    write(tmp_path / "wavs" / "s1-000.wav", voice(2.0))
    (tmp_path / "wavs" / "s2-003.wav").unlink()
    found = faults(capsys, tmp_path / "none", tmp_path / "train", made / "dump", options=("--audio",))
    assert len(found) == 3
    assert found[0].startswith(f"data directory {tmp_path / 'none'} does not exist")
    assert re.match(r"'s1-000' lasts 0.340 s by utt2dur, 2.000 s by", found[1])
    assert "s2-003.wav: no such recording" in found[2]


# ---- show


def facts(out: str) -> dict[str, str]:
    return dict(re.split(r"  +|: ", line, maxsplit=1) for line in out.splitlines())


def test_show_a_recording_and_its_mel(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav, _ = soundfile.read(made / "wavs" / "s0-001.wav")
    assert main(["data", "show", str(made / "train"), "s0-001"]) == 0
    found = facts(capsys.readouterr().out)
    assert found["speaker"] == "s0"
    assert found["text"] == "word 1"
    assert found["ali"] == "2 intervals: aa 0.00-0.10, bb 0.10-0.20"
    clipped = int((np.abs(wav) >= 0.999).sum())
    assert clipped > 10
    peak, rms = np.abs(wav).max(), np.sqrt(np.mean(wav**2))
    assert found["wav"] == (
        f"{len(wav) / RATE:.3f} s, {len(wav):,} samples at 16000 Hz, 1 channel; peak {peak:.4f} "
        f"({20 * np.log10(peak):.1f} dBFS), RMS {rms:.4f} ({20 * np.log10(rms):.1f} dBFS), {clipped} samples clipped "
        "(from 0.999)"
    )
    assert found["picture"] == "s0-001.png"
    assert imread(tmp_path / "s0-001.png").shape[1] == 900


def test_shards_and_directories_show_the_same_mel(made, capsys):
    said = []
    for folder in ("train", "dump"):
        assert main(["data", "show", str(made / folder), "s1-003", "--no-plot"]) == 0
        said.append(facts(capsys.readouterr().out))
    assert said[0]["mel"] == said[1]["mel"]
    assert said[0]["loudest band"] == said[1]["loudest band"]
    assert said[1]["shard"] == "train-000001.tar"
    assert "picture" not in said[0]
    # the numbers themselves, from the shard's bytes
    tar, row = place(made / "dump", "s1-003")
    content = tar.read_bytes()[row[3][0] : row[3][0] + row[3][1]]
    mel = np.frombuffer(content[-80 * row[2] * 4 :], "<f4").reshape(80, row[2]).astype(np.float64)
    numbers = [float(number) for number in re.findall(r"(?:min|max|mean|std) (-?\d+\.\d+)", said[1]["mel"])]
    assert numbers == pytest.approx([mel.min(), mel.max(), mel.mean(), mel.std()], abs=5e-4)
    band = mel.mean(axis=1).argmax()
    assert said[1]["loudest band"].startswith(f"{band} of 0 to 79, around ")


@pytest.mark.parametrize(("hertz", "spec"), [(1000.0, "sqvae16k"), (3000.0, "melgan22k")])
def test_the_loudest_band_is_where_the_tone_is(tmp_path, capsys, hertz, spec):
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(44_100) / 44_100)
    path = write(tmp_path / "tone.wav", np.float32(tone), 44_100)
    DataDir([Utterance("a-tone", "a", str(path))]).write(tmp_path / "data")
    assert main(["data", "show", str(tmp_path / "data"), "a-tone", "--mel-spec", spec, "--no-plot"]) == 0
    found = facts(capsys.readouterr().out)
    assert "peak 0.5000 (-6.0 dBFS), RMS 0.3536 (-9.0 dBFS), 0 samples clipped" in found["wav"]
    around = float(re.search(r"around (\d+) Hz", found["loudest band"])[1])
    assert around == pytest.approx(hertz, rel=0.06)


def test_labels_are_drawn(made, tmp_path):
    target = tmp_path / "with" / "labels.png"
    assert main(["data", "show", str(made / "dump"), "s1-003", "--plot", str(target)]) == 0
    shutil.copytree(made / "train", tmp_path / "train")
    (tmp_path / "train" / "ali").unlink()
    plain = tmp_path / "plain.png"
    assert main(["data", "show", str(tmp_path / "train"), "s1-003", "--plot", str(plain)]) == 0
    assert imread(target).shape == imread(plain).shape
    changed = np.abs(imread(target) - imread(plain)).max(axis=2) > 0.2
    columns = np.flatnonzero(changed.any(axis=0))
    seconds = soundfile.info(made / "wavs" / "s1-003.wav").duration
    assert changed.sum() > 200
    assert columns.max() < 60 + 830 * 0.2 / seconds + 20, "the labels end at 0.2 s"


def test_show_several_channels_a_part_and_silence(tmp_path, capsys):
    left, right = voice(1.0), 0.25 * voice(1.0, 200)
    stereo = write(tmp_path / "stereo.wav", np.stack([left, right], axis=1))
    silence = write(tmp_path / "silence.wav", np.zeros(RATE, np.float32))
    DataDir(
        [
            Utterance("a-part", "a", str(stereo), start=0.25, end=0.75, recording="stereo"),
            Utterance("b-zero", "b", str(silence), recording="zero"),
            Utterance("c-pipe", "c", f"cat {stereo} |", recording="pipe"),
        ]
    ).write(tmp_path / "data")
    show = ["data", "show", str(tmp_path / "data")]
    assert main([*show, "a-part", "--no-plot"]) == 0
    out = capsys.readouterr().out
    assert f"{stereo}, from 0.250 s to 0.750 s" in out
    part = soundfile.read(stereo)[0][RATE // 4 : 3 * RATE // 4]
    assert f"8,000 samples at 16000 Hz, 2 channels; peak {np.abs(part).max():.4f}" in out
    assert main([*show, "b-zero", "--plot", str(tmp_path / "zero.png")]) == 0
    out = capsys.readouterr().out
    assert "peak 0.0000 (silence)" in out
    assert re.search(r"mel +none: .*silent", out)
    assert not (tmp_path / "zero.png").exists()
    assert main([*show, "c-pipe", "--no-plot"]) == 1
    assert "pass --allow-pipes to run it" in capsys.readouterr().err
    assert main([*show, "c-pipe", "--no-plot", "--allow-pipes", "--channel", "1"]) == 0
    assert re.search(r"mel +sqvae16k: 80 bands x 101 frames", capsys.readouterr().out)


@pytest.mark.parametrize("folder", ["train", "dump"])
def test_an_unknown_utterance(made, capsys, folder):
    assert main(["data", "show", str(made / folder), "s1_002"]) == 1
    err = capsys.readouterr().err
    assert re.search(rf"{folder} has no utterance 's1_002'; near it are s1-002, .* \(12 utterances\)", err)
    assert main(["data", "show", str(made / folder), "zzz"]) == 1
    assert "there are s0-000, s0-001, s0-002, s0-003, s1-000, ..." in capsys.readouterr().err


def test_bad_options(made, capsys):
    assert main(["data", "show", str(made / "train"), "s0-000", "--mel-spec", "sqvae"]) == 1
    assert "no mel preset 'sqvae', did you mean 'sqvae16k'?" in capsys.readouterr().err
    for words in (
        ["data"],
        ["data", "shwo"],
        ["data", "show", "x"],
        ["data", "show", "x", "y", "--plot", "z", "--no-plot"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert "usage: sqvae-speech data" in capsys.readouterr().err
    assert main(["validate", str(made / "train")]) == 2
