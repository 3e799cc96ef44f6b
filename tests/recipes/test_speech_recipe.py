"""The speech recipe from beginning to end on tiny corpora: what it writes, when it works again, how it fails."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SMALL, with_report

from sqvae_speech.units.store import read_units, write_units

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STEPS = ("--training.num_steps", "20")


@pytest.fixture(scope="module")
def whole(recipe, vctk_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A work folder in which all stages of the VCTK recipe have been run, and the options it was run with."""
    work = tmp_path_factory.mktemp("work dir")
    options = ("--corpus", str(vctk_corpus), "--tag", "small", "--num-conversions", "3", *STEPS)
    run = recipe("vctk", work, *options)
    assert run.status == 0, run.errors
    assert run.done == [0, 1, 2, 3, 4, 5, 6]
    exp = work / "exp" / "small"
    for name in ("checkpoints", "plots", "units", "exports", "scores", "wav"):
        assert f" {exp / name}\n" in run.output, f"the end of the run says where the {name} are"
    assert "| test | own speaker |" in run.output, "the end of the run prints the scores"
    return work, options


@pytest.fixture
def copied(whole, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A copy of that work folder which a test may change. Its stages are not done: their inputs have other paths."""
    work = tmp_path / "copy"
    shutil.copytree(whole[0], work)
    return work, whole[1]


def modified(folder: Path) -> dict[str, int]:
    """Files below a folder with their times, but for the locks that a run touches."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_units_agree_in_all_forms(whole):
    exp = whole[0] / "exp" / "small"
    for split in ("train", "dev", "test"):
        store = read_units(exp / "units" / f"{split}.parquet")
        codes = {units.utterance_id: units.codes[0].tolist() for units in store}
        assert codes
        assert all(0 <= code < 32 for line in codes.values() for code in line)
        km = (exp / "exports" / "km" / f"{split}.km").read_text().splitlines()
        ids = (exp / "exports" / "km" / f"{split}.ids").read_text().split()
        assert {name: list(map(int, line.split())) for name, line in zip(ids, km, strict=True)} == codes
        gslm = (exp / "exports" / "gslm" / f"{split}.gslm").read_text().splitlines()
        assert {line.split("|")[0]: list(map(int, line.split("|")[1].split())) for line in gslm} == codes
        kaldi = (exp / "exports" / "kaldi" / f"{split}.kaldi").read_text().splitlines()
        assert {line.split()[0]: list(map(int, line.split()[1:])) for line in kaldi} == codes
        espnet, fairseq = exp / "exports" / "espnet" / split, exp / "exports" / "fairseq"
        columns = {path.name: path.read_text().splitlines() for path in espnet.iterdir() if path.suffix != ".json"}
        of_utterances = set(columns) - {"spk2utt", "tokens.txt", "tokens.cjk.txt"}
        assert of_utterances == {
            *("text", "utt2spk", "wav.scp"),
            *(f"{kind}.sqvae32" for kind in ("text.km", "text.ts", "text.rm", "durations.rm")),
        }
        for name in of_utterances:
            assert [line.split()[0] for line in columns[name]] == sorted(codes), name
        assert columns["text.km.sqvae32"] == kaldi
        assert len(columns["tokens.txt"]) == len(columns["tokens.cjk.txt"]) == 32, "the dictionary has all units"
        for suffix in ("km", "ids", "units", "durations", "wrd", "ltr", "speakers"):
            lines = (fairseq / f"{split}.{suffix}").read_text().splitlines()
            assert len(lines) == len(codes), suffix
        assert (fairseq / f"{split}.km").read_text().splitlines() == km
        manifest = (fairseq / f"{split}.tsv").read_text().splitlines()
        assert all(Path(manifest[0], line.split("\t")[0]).is_file() for line in manifest[1:])
        assert len((fairseq / "dict.km.txt").read_text().splitlines()) == 32


def test_each_of_several_codebooks_is_exported(recipe, copied):
    work, options = copied
    units = work / "exp" / "small" / "units"
    for split in ("train", "dev"):
        (units / f"{split}.parquet").unlink()
    store = read_units(units / "test.parquet")
    two = [replace(one, codes=np.stack([one.codes[0], one.codes[0][::-1]])) for one in store]
    write_units(units / "test.parquet", two, replace(store.meta, num_codebooks=2))
    run = recipe("vctk", work, *options, "--stage", "6", "--stop-stage", "6")
    assert run.status == 0, run.errors
    codes = {one.utterance_id: one.codes for one in read_units(units / "test.parquet")}
    for codebook in (0, 1):
        exports = work / "exp" / "small" / "exports" / f"codebook{codebook}"
        assert {path.name for path in exports.iterdir()} == {"units", "km", "gslm", "kaldi", "espnet", "fairseq"}
        lines = (exports / "kaldi" / "test.kaldi").read_text().splitlines()
        assert {line.split()[0]: line.split()[1:] for line in lines} == {
            name: list(map(str, rows[codebook])) for name, rows in codes.items()
        }


def test_scores_and_recordings(whole):
    exp = whole[0] / "exp" / "small"
    scores = json.loads((exp / "scores" / "scores.json").read_text())
    assert scores["step"] == 20
    assert [split["split"] for split in scores["splits"]] == ["dev", "test"]
    assert all(split["error_db2"]["pooled"] > 0 for split in scores["splits"])
    wavs = sorted((exp / "wav").glob("*.wav"))
    assert len(wavs) == 3
    for path in wavs:
        wav, rate = soundfile.read(path)
        assert rate == 22050
        assert len(wav) > 0.5 * rate
        assert np.abs(wav).max() > 0.01, "audible"
    lines = [json.loads(line) for line in (exp / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 20


def test_a_second_run_does_nothing(whole, recipe):
    work, options = whole
    before = modified(work)
    run = recipe("vctk", work, *options)
    assert run.status == 0, run.errors
    assert run.skipped == [0, 1, 2, 3, 4, 5, 6]
    assert run.done == []
    assert modified(work) == before


def test_the_report_at_the_end(whole, recipe):
    work, options = whole
    report = work / "exp" / "small" / "report.html"
    assert not report.exists(), "the tests' own option leaves it out"
    run = recipe("vctk", work, *options, small=with_report(SMALL))
    assert (run.status, run.done) == (0, []), run.errors
    assert f" {report}\n" in run.output
    text = report.read_text()
    for heard in ("Recording of", "Its log-mel, vocoded", "Units, as", "Units, converted to"):
        assert text.count(f"<figcaption>{heard}") == 3, "three utterances, as recorded, vocoded, and as two speakers"
    assert "Map of the codebook" in text
    assert f"sqvae-speech evaluate --model &#39;{work}" in text, "what is not there says how it is made"
    before = modified(work)
    assert recipe("vctk", work, *options, small=with_report(SMALL)).status == 0
    assert modified(work) == before, "it is not written again"


def test_other_options_do_only_what_depends_on_them(whole, recipe):
    work, options = whole
    run = recipe("vctk", work, *options, "--stage", "4", "--target-speaker", "p226", "--num-conversions", "2")
    assert run.status == 0, run.errors
    assert (run.done, run.skipped) == ([4, 5], [6])
    scores = json.loads((work / "exp" / "small" / "scores" / "scores.json").read_text())
    assert "p226" in scores["splits"][0]["target_error_db2"]
    assert all("-to-p226" in path.name for path in (work / "exp" / "small" / "wav").glob("*.wav"))
    assert recipe("vctk", work, *options).done == [4, 5], "and back"


def test_pairs_to_convert(whole, recipe, tmp_path):
    work, options = whole
    name = next(iter(read_units(work / "exp" / "small" / "units" / "test.parquet"))).utterance_id
    pairs = tmp_path / "pairs of mine"
    pairs.write_text(f"{name} p226\n{name} p227\n")
    stage = ("--stage", "5", "--stop-stage", "5", "--pairs", str(pairs))
    run = recipe("vctk", work, *options, *stage)
    assert run.status == 0, run.errors
    assert run.done == [5]
    wavs = {path.name for path in (work / "exp" / "small" / "wav").glob("*.wav")}
    assert wavs == {f"{name}-to-p226.wav", f"{name}-to-p227.wav"}
    assert recipe("vctk", work, *options, *stage).skipped == [5]
    pairs.write_text(f"{name} p226\n")
    assert recipe("vctk", work, *options, *stage).done == [5], "other contents, other pairs"
    pairs.write_text(f"{name} p999\n")
    run = recipe("vctk", work, *options, *stage)
    assert run.status == 1
    assert "speaker 'p999' was not trained" in run.errors
    assert recipe("vctk", work, *options, "--stage", "5", "--stop-stage", "5").done == [5], "and back"


def test_a_language_model_over_the_units(whole, recipe):
    work, options = whole
    size = "--model.dim 16 --model.num_layers 1 --model.num_heads 2 --model.context 16 --training.batch_size 4"
    options = (*options, "--stage", "7", "--stop-stage", "7", "--num-samples", "1", "--lm-args")
    run = recipe("vctk", work, *options, f"{size} --training.num_steps 4")
    assert run.status == 0, run.errors
    assert run.done == [7]
    lm = work / "exp" / "small" / "lm"
    splits = json.loads((lm / "scores.json").read_text())["splits"]
    assert [split["split"] for split in splits] == ["dev", "test"]
    assert all(list(split["scores"]) == ["uniform", "unigram", "bigram", "transformer"] for split in splits)
    assert "| test | transformer |" in run.output, "the end of the run prints the scores"
    assert len(read_units(lm / "samples" / "units.parquet")) == 1
    assert (lm / "samples" / "log.jsonl").exists()
    assert recipe("vctk", work, *options, f"{size} --training.num_steps 4").skipped == [7]
    run = recipe("vctk", work, *options, f"{size} --training.num_steps 3")
    assert run.done == [7], "other settings, another model"
    assert (lm / "checkpoints" / "latest").read_text().strip() == "step-00000003"


def test_a_vocoder_for_the_corpus(whole, recipe):
    work, options = whole
    size = "--model.channels 16 --model.num_blocks 1 --training.batch_size 4 --training.num_plots 0"
    options = (*options, "--stage", "8", "--stop-stage", "8", "--vocoder-args")
    run = recipe("vctk", work, *options, f"{size} --training.num_steps 4")
    assert run.status == 0, run.errors
    assert run.done == [8]
    vocoder = work / "exp" / "vocoder_melgan22k"
    assert f" {vocoder}\n" in run.output, "the end of the run says where it is"
    wavs = sorted((vocoder / "wav").glob("*.wav"))
    assert len(wavs) == 3
    assert all(soundfile.info(path).samplerate == 22050 for path in wavs)
    assert recipe("vctk", work, *options, f"{size} --training.num_steps 4").skipped == [8]
    run = recipe("vctk", work, *options, f"{size} --training.num_steps 3")
    assert run.done == [8], "other settings, another vocoder"
    assert (vocoder / "checkpoints" / "latest").read_text().strip() == "step-00000003"
    # and conversion speaks with it
    run = recipe("vctk", work, *whole[1], "--stage", "5", "--stop-stage", "5", "--vocoder", f"istft:{vocoder}")
    assert run.status == 0, run.errors
    assert run.done == [5]


def test_text_to_units(whole, recipe):
    work, options = whole
    size = "--model.dim 16 --model.num_layers 1 --model.text_layers 1 --model.num_heads 2 --training.batch_size 4"
    options = (*options, "--stage", "9", "--stop-stage", "9", "--num-samples", "1", "--tts-args")
    size += " --model.max_runs 4 --model.max_duration 4 --training.num_steps 3"
    run = recipe("vctk", work, *options, size)
    assert run.status == 0, run.errors
    assert run.done == [9]
    model = work / "exp" / "small" / "text_to_units"
    splits = json.loads((model / "scores.json").read_text())["splits"]
    assert list(splits) == ["dev", "test"]
    assert list(splits["test"])[:3] == ["recording", "text to units", "bigram"]
    assert "| test | text to units |" in run.output, "the end of the run prints the scores"
    (said,) = read_units(model / "samples" / "units.parquet")
    wav, rate = soundfile.read(model / "samples" / f"{said.utterance_id}.wav")
    assert rate == 22050
    assert len(wav) >= 256 * 2 * said.total_units - 1024
    assert recipe("vctk", work, *options, size).skipped == [9]


def test_force_does_a_done_stage_again(whole, recipe):
    work, options = whole
    units = work / "exp" / "small" / "units" / "test.parquet"
    before, time = units.read_bytes(), units.stat().st_mtime_ns
    run = recipe("vctk", work, *options, "--stage", "3", "--stop-stage", "3", "--force")
    assert run.done == [3]
    assert units.stat().st_mtime_ns > time
    assert units.read_bytes() == before, "the same units"


def test_a_changed_recording_changes_its_shard(copied, recipe, vctk_corpus: Path, tmp_path: Path):
    work, options = copied
    corpus = tmp_path / "corpus"
    shutil.copytree(vctk_corpus, corpus)
    options = (*options, "--corpus", str(corpus), "--stop-stage", "1")
    assert recipe("vctk", work, *options).done == [0, 1]
    assert recipe("vctk", work, *options).skipped == [0, 1]

    def frames() -> int:  # of all splits: which one the recording is in does not matter
        indexes = (work / "dump" / "melgan22k").glob("*/index.json")
        return sum(json.loads(index.read_text())["num_frames"] for index in indexes)

    before = frames()
    wav = corpus / "wav48_silence_trimmed" / "p225" / "p225_003_mic1.flac"
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, samples[: len(samples) // 2], rate)
    run = recipe("vctk", work, *options)
    assert run.done == [0, 1]
    assert "its inputs or outputs have changed" in run.output
    assert 0 < frames() < before


def test_a_longer_training_goes_on_and_another_begins_anew(copied, recipe):
    work, options = copied
    options = (*options, "--stage", "2", "--stop-stage", "2")
    log = work / "exp" / "small" / "logs" / "stage2.log"

    run = recipe("vctk", work, *options, "--training.num_steps", "25")
    assert run.status == 0, run.errors
    assert run.done == [2]
    assert "resuming from" in log.read_text()
    assert (work / "exp" / "small" / "checkpoints" / "latest").read_text().strip() == "step-00000025"
    assert not (work / "exp" / "small.old-1").exists()

    run = recipe("vctk", work, *options, "--training.learning_rate", "1e-3")
    assert run.status == 0, run.errors
    assert "learning_rate: 0.001" in log.read_text(), "what has changed is shown"
    assert "resuming from" not in log.read_text()
    assert (work / "exp" / "small.old-1" / "checkpoints" / "step-00000025" / "model.safetensors").exists()
    assert (work / "exp" / "small" / "checkpoints" / "latest").read_text().strip() == "step-00000020"


def test_a_misspelt_setting_is_a_bad_option(recipe, vctk_corpus: Path, tmp_path: Path):
    run = recipe("vctk", tmp_path / "work", "--corpus", str(vctk_corpus), "--training.num_setps", "20")
    assert run.status == 2
    assert "usage: bash egs/vctk/run.sh" in run.errors
    assert "unknown option --training.num_setps, did you mean 'training.num_steps'?" in run.errors.splitlines()[-1]
    assert not (tmp_path / "work" / "data").exists(), "said before the corpus is read"


def test_a_missing_corpus_stops_at_stage_0(recipe, tmp_path: Path):
    run = recipe("vctk", tmp_path / "work", "--corpus", str(tmp_path / "nowhere"), "--tag", "x", *STEPS)
    assert run.status == 1
    assert f"{tmp_path / 'nowhere'} does not exist" in run.errors
    assert "Traceback" not in run.errors
    assert f"log: {tmp_path / 'work'}/exp/x/logs/stage0.log" in run.errors.splitlines()[-1]
    assert run.done == []
    assert not (tmp_path / "work" / "data" / "train").exists()


def test_a_damaged_shard_stops_the_run_and_the_former_units_stay(copied, recipe):
    work, options = copied
    exp = work / "exp" / "small"
    before = {path.name: path.read_bytes() for path in (exp / "units").iterdir()}
    shard = next((work / "dump" / "melgan22k" / "test").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:1000])
    run = recipe("vctk", work, *options, "--stage", "3", "--force")
    assert run.status == 1
    assert shard.name in run.errors
    assert "Traceback" not in run.errors
    assert f"log: {exp}/logs/stage3.log" in run.errors.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in (exp / "units").iterdir()} == before
    assert run.done == []


def test_stages_say_which_one_is_missing(recipe, tmp_path: Path):
    run = recipe("vctk", tmp_path / "work", "--stage", "1", "--tag", "x", *STEPS)
    assert run.status == 1
    assert "run stage 0 first" in run.errors.splitlines()[-1]


def test_mini_makes_its_corpus_and_trains_on_two_processes(recipe, tmp_path: Path):
    """egs/mini on two of its voices, in paths with spaces; training on two CPU processes."""
    maker = tmp_path / "a maker" / "make_corpus.py"
    maker.parent.mkdir()
    voices = ["--speakers", "p301", "p302", "--max-utterances", "4"]
    real = ROOT / "egs" / "mini" / "local" / "make_corpus.py"
    voices = ["--speakers", "p301", "p302", "--max-utterances", "4"]
    maker.write_text(
        f"import os, sys\nos.execv(sys.executable, [sys.executable, {str(real)!r}, *sys.argv[1:], *{voices}])\n"
    )
    work = tmp_path / "a work dir"
    options = ("--make-corpus", str(maker), "--tag", "two", "--num-conversions", "1", "--num-processes", "2", *STEPS)
    run = recipe("mini", work, *options)
    assert run.status == 0, run.errors
    assert run.done == [0, 1, 2, 3, 4, 5, 6]
    lines = (work / "data" / "train" / "ali").read_text().splitlines()
    assert len(lines[0].split()) == 4, "utterance, onset, offset, phone"
    assert len(list((work / "exp" / "two" / "wav").glob("*.wav"))) == 1
    assert recipe("mini", work, *options).skipped == [0, 1, 2, 3, 4, 5, 6]
    shutil.rmtree(work / "downloads")
    assert recipe("mini", work, *options, "--stop-stage", "0").done == [0], "a deleted corpus is made again"


def test_fsdd_from_zip_and_folder(recipe, fsdd_zip: Path, tmp_path: Path):
    options = ("--tag", "digits", "--num-conversions", "1", *STEPS)
    run = recipe("fsdd", tmp_path / "zip", "--corpus", str(fsdd_zip), *options)
    assert run.status == 0, run.errors
    assert run.done == [0, 1, 2, 3, 4, 5, 6]
    shutil.unpack_archive(fsdd_zip, tmp_path / "unpacked")
    run = recipe("fsdd", tmp_path / "folder", "--corpus", str(tmp_path / "unpacked"), *options, "--stop-stage", "1")
    assert run.status == 0, run.errors
    for split in ("train", "dev", "test"):
        texts = [(tmp_path / kind / "data" / split / "text").read_text() for kind in ("zip", "folder")]
        assert texts[0] == texts[1]
        indices = [tmp_path / kind / "dump" / "sqvae16k" / split / "index.json" for kind in ("zip", "folder")]
        sums = [[shard["sha256"] for shard in json.loads(index.read_text())["shards"]] for index in indices]
        assert sums[0] == sums[1], "the same features from both"


def test_librispeech_scored_on_speakers_that_were_not_trained(recipe, librispeech_corpus: Path, tmp_path: Path):
    options = ("--tag", "books", "--num-conversions", "1", "--prepare-args", "--test subsets", *STEPS)
    run = recipe("librispeech", tmp_path, "--corpus", str(librispeech_corpus), "--target-speaker", "198", *options)
    assert run.status == 0, run.errors
    assert run.done == [0, 1, 2, 3, 4, 5, 6]
    assert (tmp_path / "exp" / "books" / "units" / "test.parquet").exists()
    assert len(list((tmp_path / "exp" / "books" / "wav").glob("*.wav"))) == 1


def test_download_takes_what_is_there_already(recipe, vctk_corpus: Path, tmp_path: Path):
    """Without --corpus it belongs into <work dir>/downloads/<corpus>; nothing here goes to the network."""
    shutil.copytree(vctk_corpus, tmp_path / "downloads" / "vctk" / "VCTK-Corpus-0.92")
    options = ("--download", "--stop-stage", "0")
    run = recipe("vctk", tmp_path, *options)
    assert run.status == 0, run.errors
    assert run.done == [0]
    assert "there already, nothing to fetch" in run.errors
    assert (tmp_path / "data" / "train" / "wav.scp").is_file()
    assert recipe("vctk", tmp_path, *options).skipped == [0]


def test_download_of_what_has_no_address(recipe, tmp_path: Path):
    run = recipe("folder", tmp_path, "--download", "--stop-stage", "0")
    assert run.status == 1
    assert "folder has no public address" in run.errors
    assert not (tmp_path / "data").exists()
