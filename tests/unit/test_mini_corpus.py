"""The mini corpus of egs/mini: layout, determinism, and an alignment that agrees with the sound."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sqvae_speech.errors import UserError

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "egs" / "mini" / "local"
sys.path.insert(0, str(LOCAL))

import espeak  # noqa: E402
import make_corpus  # noqa: E402

SPEAKERS = ("p301", "p304", "p310")  # a woman, a man, and the voice of espeak's other (Klatt) synthesizer
RATE = 22050


def command(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the script as a recipe does."""
    return subprocess.run(
        [sys.executable, str(LOCAL / "make_corpus.py"), *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("mini") / "corpus"
    done = command(output, "--speakers", *SPEAKERS, "--max-utterances", 10)
    assert done.returncode == 0, done.stderr
    return output


def wav_path(corpus: Path, utterance_id: str) -> Path:
    return corpus / "wav48_silence_trimmed" / utterance_id[:4] / f"{utterance_id}_mic1.flac"


def read_ali(corpus: Path) -> dict[str, list[tuple[float, float, str]]]:
    intervals = defaultdict(list)
    for line in (corpus / "ali").read_text(encoding="utf-8").splitlines():
        utterance_id, onset, offset, phone = line.split(" ")
        intervals[utterance_id].append((float(onset), float(offset), phone))
    return intervals


def read_phones(corpus: Path) -> dict[str, list[np.ndarray]]:
    """The samples of every interval, by phone."""
    phones = defaultdict(list)
    for utterance_id, intervals in read_ali(corpus).items():
        wav, _ = soundfile.read(wav_path(corpus, utterance_id))
        for onset, offset, phone in intervals:
            phones[phone].append(wav[round(onset * RATE) : round(offset * RATE)])
    return phones


def test_layout_is_that_of_vctk(corpus):
    table = (corpus / "speaker-info.txt").read_text().splitlines()
    assert table[0].split()[:4] == ["ID", "AGE", "GENDER", "ACCENTS"]
    assert [(row.split()[0], row.split()[2]) for row in table[1:]] == [("p301", "F"), ("p304", "M"), ("p310", "M")]
    recordings = sorted(corpus.glob("wav48_silence_trimmed/*/*_mic1.flac"))
    assert [path.name for path in recordings] == [
        f"{speaker}_{number:03d}_mic1.flac" for speaker in SPEAKERS for number in range(1, 11)
    ]
    for path in recordings:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        text = corpus / "txt" / path.parent.name / path.name.replace("_mic1.flac", ".txt")
        assert text.read_text(encoding="utf-8").strip()
    assert not list(corpus.parent.glob(".*")), "something half-written was left beside the corpus"


def test_alignment_is_sorted_and_covers_each_utterance(corpus):
    lines = (corpus / "ali").read_text(encoding="utf-8").splitlines()
    ids = [line.split()[0] for line in lines]
    assert ids == sorted(ids)
    alignment = read_ali(corpus)
    assert len(alignment) == len(SPEAKERS) * 10
    for utterance_id, intervals in alignment.items():
        onsets, offsets, phones = zip(*intervals, strict=True)
        assert onsets[0] == 0
        assert onsets[1:] == offsets[:-1]
        assert all(onset < offset for onset, offset, _ in intervals)
        assert round(offsets[-1] * RATE) == soundfile.info(wav_path(corpus, utterance_id)).frames
        assert phones[0] == phones[-1] == "SIL"
        assert "SIL SIL" not in " ".join(phones)


def test_silence_is_silent_and_phones_sound(corpus):
    phones = read_phones(corpus)
    loudest_silence = max(np.abs(samples).max() for samples in phones.pop("SIL"))
    assert loudest_silence <= 4 / 32768
    for phone, intervals in phones.items():
        for samples in intervals:
            assert np.abs(samples).max() > 0.004, phone


def test_phones_sound_and_last_as_they_should(corpus):
    def crossings(*names: str) -> float:  # zero crossings a second, the median over the intervals
        return float(np.median([np.mean(np.diff(x > 0)) * RATE for name in names for x in phones[name]]))

    def closed(*names: str) -> float:  # the part of the intervals that begins in (near) silence
        return float(np.mean([np.abs(x[: RATE // 50]).max() < 0.004 for name in names for x in phones[name]]))

    phones = read_phones(corpus)
    vowels = ("ə", "ɪ", "ɛ", "ʌ", "iː", "ɔː")
    assert crossings("s", "ʃ", "z") > 2 * crossings(*vowels)
    assert crossings("m", "n", "w") < crossings(*vowels)
    assert closed("p", "t", "k") > 0.7  # a stop holds its closure
    assert closed(*vowels) < 0.05
    durations = {phone: np.median([len(x) for x in intervals]) / RATE for phone, intervals in phones.items()}
    assert 0.03 < durations["ə"] < durations["ɔː"] < 0.3
    assert all(0.02 < duration < 0.5 for duration in durations.values())


def test_alignment_explains_the_spectrum_best_when_it_is_not_shifted(corpus):
    """A shift of 10 ms either way must explain less of the variance of log spectra, for every voice."""
    hop, window = RATE // 200, np.hanning(330)
    alignment = read_ali(corpus)
    for speaker in SPEAKERS:
        spectra, labels = [], {shift: [] for shift in (-20, -10, 0, 10, 20)}
        for utterance_id in (name for name in alignment if name.startswith(speaker)):
            wav, _ = soundfile.read(wav_path(corpus, utterance_id))
            frames = np.lib.stride_tricks.sliding_window_view(wav, len(window))[::hop] * window
            bands = np.abs(np.fft.rfft(frames))[:, 1:].reshape(len(frames), 33, 5).mean(axis=2)
            centres = (np.arange(len(frames)) * hop + len(window) / 2) / RATE
            onsets, _, phones = zip(*alignment[utterance_id], strict=True)
            spectra.append(np.log(bands + 1e-3))
            for shift, found in labels.items():
                places = np.searchsorted(onsets, centres - shift / 1000, side="right") - 1
                found.extend(phones[max(place, 0)] for place in places)
        values = np.concatenate(spectra)
        explained = {}
        for shift, found in labels.items():
            names, classes = np.unique(found, return_inverse=True)
            within = sum(
                values[classes == k].var(axis=0).sum() * np.sum(classes == k)
                for k, name in enumerate(names)
                if name != "SIL"
            )
            spoken = values[names[classes] != "SIL"]
            explained[shift] = 1 - within / (spoken.var(axis=0).sum() * len(spoken))
        assert explained[-20] < explained[-10] < explained[0] > explained[10] > explained[20], (speaker, explained)
        assert explained[0] > 0.5


def test_voices_differ_in_pitch(corpus):
    def pitch(speaker: str) -> float:  # Hz: the strongest autocorrelation from 60 to 400 Hz in the vowels
        found = []
        for utterance_id, intervals in read_ali(corpus).items():
            wav, _ = soundfile.read(wav_path(corpus, utterance_id))
            for onset, offset, phone in intervals:
                x = wav[round(onset * RATE) : round(offset * RATE)]
                if utterance_id.startswith(speaker) and phone in ("iː", "ɔː", "ɪ", "ʌ") and len(x) > 2000:
                    power = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
                    correlation = np.fft.irfft(power)[: RATE // 60]
                    found.append(RATE / (RATE // 400 + np.argmax(correlation[RATE // 400 :])))
        return float(np.median(found))

    assert 165 < pitch("p301") < 215
    assert 65 < pitch("p304") < 95
    assert 100 < pitch("p310") < 130


def test_the_same_bytes_on_every_run(corpus, tmp_path):
    """Alone and after other voices, and with another number of processes."""
    done = command(tmp_path / "again", "--speakers", "p310", "p304", "--max-utterances", 10, "--num-workers", 2)
    assert done.returncode == 0, done.stderr
    paths = [path for path in (tmp_path / "again").rglob("p3*.*") if path.is_file()]
    assert len(paths) == 40
    for path in paths:
        assert path.read_bytes() == (corpus / path.relative_to(tmp_path / "again")).read_bytes(), path.name
    alignment = read_ali(corpus)
    assert read_ali(tmp_path / "again") == {
        name: alignment[name] for name in alignment if not name.startswith("p301")
    }


def test_a_finished_corpus_is_not_made_again_and_a_damaged_one_is(tmp_path):
    output, plan = tmp_path / "corpus", make_corpus.plan(["p301"], 2)
    assert make_corpus.make_corpus(output, plan)["made"]
    before = (output / "ali").stat().st_ino
    assert not make_corpus.make_corpus(output, plan)["made"]
    assert (output / "ali").stat().st_ino == before

    wav_path(output, "p301_002").unlink()
    assert make_corpus.make_corpus(output, plan)["made"]
    assert wav_path(output, "p301_002").exists()

    marker = json.loads((output / "corpus.json").read_text())
    (output / "corpus.json").write_text(json.dumps(marker | {"version": "of another time"}))
    assert make_corpus.make_corpus(output, plan)["made"]
    assert os.listdir(tmp_path) == ["corpus"]


def test_what_is_not_a_mini_corpus_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = command(tmp_path)
    assert done.returncode == 1
    assert "is not a mini corpus" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_failure_leaves_nothing_behind(tmp_path):
    plan = {make_corpus.Voice("p399", "F", "None", "gmw/en", "no-such-variant"): [("p399_001", "Hello.")]}
    with pytest.raises(UserError, match="no voice 'gmw/en\\+no-such-variant'"):
        make_corpus.make_corpus(tmp_path / "corpus", plan)
    assert os.listdir(tmp_path) == []


def test_a_missing_package_and_unknown_speaker_say_what_to_do(monkeypatch):
    with pytest.raises(UserError, match="its speakers are p301, p302"):
        make_corpus.plan(["p225"])
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        espeak.Espeak()


def test_voices_in_a_very_deep_folder_are_found(tmp_path, monkeypatch):
    """An environment deep in the file system: espeak itself cuts the path of its data at 160 characters."""
    import espeakng_loader

    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep / "espeak-ng-data"))
    engine = espeak.Espeak()
    engine.choose("gmw/en+f1", pitch=50, rate=165)
    wav, phones = engine.say("Hello.")
    assert len(wav) > RATE // 4
    assert [name.strip("ˈˌ ") for _, name in phones][:2] == ["h", "ə"]


def test_the_plan_has_enough_voices_and_sentences():
    plan = make_corpus.plan()
    assert len(plan) >= 8
    assert {voice.gender for voice in plan} == {"F", "M"}
    assert len({(voice.language, voice.variant) for voice in plan}) == len(plan)
    said = list(plan.values())
    shared = set.intersection(*({sentence for _, sentence in utterances} for utterances in said))
    assert len(shared) >= 20
    sentence_of: dict[str, str] = {}  # a number is a sentence, whoever speaks it
    for utterances in said:
        own = [(utterance_id, sentence) for utterance_id, sentence in utterances if sentence not in shared]
        assert len(own) >= 10
        for utterance_id, sentence in utterances:
            assert sentence_of.setdefault(utterance_id[-3:], sentence) == sentence
    assert len(set(sentence_of.values())) == len(sentence_of) >= 60


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        # sound in 100-200, 250-400 and 700-900 of 1000 samples
        (
            [(100, "ˈa"), (250, "t"), (400, ""), (700, "m")],
            [(0, "SIL"), (100, "a"), (200, "t"), (400, "SIL"), (700, "m")],
        ),
        ([(100, "ɪ"), (150, ""), (250, "ˈʌ")], [(0, "SIL"), (100, "ɪ"), (200, "ʌ")]),  # a glide without a name
        ([(100, "oʊ"), (200, "l"), (250, "d")], [(0, "SIL"), (100, "oʊl"), (200, "d")]),  # an l drawn into its vowel
        ([(100, "ɑː"), (150, "l"), (150, "f")], [(0, "SIL"), (100, "ɑːl"), (150, "f")]),  # the same, of no length
        ([(0, "k"), (150, "a")], [(0, "k"), (150, "a")]),  # a sound from the first sample on
    ],
)
def test_align_on_events_by_hand(events, expected):
    wav = np.zeros(1000, np.int16)
    wav[100:200] = wav[250:400] = wav[700:900] = 1000
    assert espeak.align(wav, events) == expected


def test_events_out_of_order_are_refused():
    with pytest.raises(RuntimeError, match="out of order"):
        espeak.align(np.zeros(1000, np.int16), [(500, "a"), (300, "b")])


@pytest.mark.slow
def test_the_whole_corpus_has_twenty_minutes(tmp_path):
    corpus = make_corpus.make_corpus(tmp_path / "corpus", make_corpus.plan())
    assert corpus["speakers"] == 10
    assert corpus["minutes"] >= 20
    assert corpus["utterances"] == len(read_ali(tmp_path / "corpus")) == 370
