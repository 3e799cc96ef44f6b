"""The unit store gives back what was put in, refuses what does not fit, and is never left half-written."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sqvae_speech.errors import UserError
from sqvae_speech.units import store as store_module
from sqvae_speech.units.meta import UnitStoreMeta, require_same_codebook, with_frame_rate
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate, expand, run_lengths
from sqvae_speech.units.store import read_units, store_of, write_units

META = UnitStoreMeta(codebook_size=512, frame_rate=50.0, mel_spec={"name": "sqvae16k"}, checkpoint="abc")


def same(one, two):
    assert (one.utterance_id, one.speaker, one.text) == (two.utterance_id, two.speaker, two.text)
    assert (one.peak, one.num_frames) == (two.peak, two.num_frames)
    np.testing.assert_array_equal(one.codes, two.codes)
    assert (one.durations is None) == (two.durations is None)
    if one.durations is not None:
        np.testing.assert_array_equal(one.durations, two.durations)


def utterances(num_codebooks=1, count=7, seed=0):
    rng = np.random.default_rng(seed)
    return [
        UtteranceUnits(
            f"u{n}",
            rng.integers(0, 512, (num_codebooks, 0 if n == 2 else rng.integers(1, 30))),
            speaker=None if n == 3 else f"p{n % 2}",
            text=None if n % 2 else "zażółć gęślą",
            peak=None if n == 4 else 0.1 * n,
            num_frames=2 * n + 2,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_round_trip_over_row_groups(tmp_path, monkeypatch, num_codebooks):
    monkeypatch.setattr(store_module, "_ROWS_PER_GROUP", 3)
    meta = UnitStoreMeta(codebook_size=512, num_codebooks=num_codebooks, frame_rate=50.0, mel_spec={"n_mels": 80})
    rows = utterances(num_codebooks)
    assert write_units(tmp_path / "new" / "a.parquet", iter(rows), meta) == 7
    store = read_units(tmp_path / "new" / "a.parquet")
    assert store.meta == meta
    assert store.ids == [row.utterance_id for row in rows]
    for one, two in zip(rows, store, strict=True):
        same(one, two)
    same(rows[5], store["u5"])
    assert "u2" in store
    assert len(store) == 7
    assert store["u2"].codes.shape == (num_codebooks, 0)


def test_same_units_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_units(tmp_path / name, utterances(), META)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_deduplicated_round_trip(tmp_path):
    units = UtteranceUnits("u", np.array([[5, 5, 5, 1, 5, 5]]), num_frames=14)
    short = deduplicate(units)
    np.testing.assert_array_equal(short.codes, [[5, 1, 5]])
    np.testing.assert_array_equal(short.durations, [3, 1, 2])
    meta = UnitStoreMeta(codebook_size=8, frame_rate=50.0, deduplicated=True)
    write_units(tmp_path / "d.parquet", [short], meta)
    same(expand(read_units(tmp_path / "d.parquet")["u"]), units)
    assert short.total_units == 6


def test_run_lengths_against_a_plain_loop():
    rng = np.random.default_rng(1)
    for _ in range(50):
        codes = rng.integers(0, 2, (2, rng.integers(0, 12)))
        runs, expected = [], []
        for column in map(tuple, codes.T.tolist()):
            if expected and expected[-1] == column:
                runs[-1] += 1
            else:
                expected.append(column)
                runs.append(1)
        got, durations = run_lengths(codes)
        assert list(map(tuple, got.T.tolist())) == expected
        assert durations.tolist() == runs


def test_deduplicating_again_adds_durations():
    units = UtteranceUnits("u", np.array([[5, 5, 1]]), durations=np.array([2, 3, 4]))
    again = deduplicate(units)
    assert again.codes.tolist() == [[5, 1]]
    assert again.durations.tolist() == [5, 4]
    same(deduplicate(again), again)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (UtteranceUnits("u9", np.array([[511, 512]])), "512 is outside a codebook of 512"),
        (UtteranceUnits("u9", np.array([[-1]])), "code -1"),
        (UtteranceUnits("u9", np.array([[1], [2]])), "2 codebooks, but the store has 1"),
        (UtteranceUnits("u1", np.array([[1]])), "'u1' comes twice"),
        (UtteranceUnits("u9", np.array([[1]]), durations=np.array([2])), "not marked as deduplicated"),
    ],
)
def test_what_does_not_fit_leaves_no_file(tmp_path, bad, message):
    with pytest.raises(UserError, match=message):
        write_units(tmp_path / "x.parquet", [*utterances(), bad], META)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=message):
        store_of([*utterances(), bad], META)


def test_interrupted_writing_keeps_the_old_file(tmp_path):
    write_units(tmp_path / "x.parquet", utterances(), META)

    def broken():
        yield utterances()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_units(tmp_path / "x.parquet", broken(), META)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]
    assert len(read_units(tmp_path / "x.parquet")) == 7


def test_files_that_are_no_store(tmp_path):
    with pytest.raises(UserError, match="no such unit store"):
        read_units(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_units(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="not a unit store"):
        read_units(tmp_path / "other.parquet")
    write_units(tmp_path / "cut.parquet", utterances(), META)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_units(tmp_path / "cut.parquet")


def test_a_store_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "VERSION", 99)
    write_units(tmp_path / "x.parquet", utterances(), META)
    monkeypatch.undo()
    with pytest.raises(UserError, match="version 99"):
        read_units(tmp_path / "x.parquet")


def test_other_codebook_gives_both_values():
    with pytest.raises(UserError, match=r"test\.parquet has codebook_size 512, model has codebook_size 256"):
        require_same_codebook(META, 256, 1, "test.parquet", "model")
    require_same_codebook(META, 512, 1, "test.parquet", "model")


def test_frame_rate_fills_a_gap_and_does_not_contradict():
    assert with_frame_rate(UnitStoreMeta(8), 50.0).frame_rate == 50.0
    assert with_frame_rate(META, None) is META
    with pytest.raises(UserError, match="50 Hz"):
        with_frame_rate(META, 25.0)


def test_unknown_id_and_bad_sequences():
    with pytest.raises(UserError, match="no utterance 'nobody'"):
        store_of(utterances(), META)["nobody"]
    with pytest.raises(ValueError, match="integers"):
        UtteranceUnits("u", np.array([[0.5]]))
    with pytest.raises(ValueError, match="durations"):
        UtteranceUnits("u", np.array([[1, 2]]), durations=np.array([1]))
