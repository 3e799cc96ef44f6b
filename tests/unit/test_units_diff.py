"""``units diff``: what differs, counted by hand; and ``units show`` and ``convert`` as a user types them."""

from dataclasses import replace

import numpy as np
import pytest

from sqvae_speech.bin.main import main
from sqvae_speech.errors import UserError
from sqvae_speech.units.diff import diff_units, report
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.store import UnitSource, deduplicated, one_codebook, read_units, store_of, write_units

META = UnitStoreMeta(10, frame_rate=50.0)


def rows(**codes) -> list[UtteranceUnits]:
    return [UtteranceUnits(name, np.array([values], dtype=int)) for name, values in codes.items()]


A = rows(one=[1, 2, 3], two=[4, 4], three=[5], only=[6])
B = rows(three=[5], two=[4, 7, 8], one=[1, 9, 9], more=[1], less=[])


@pytest.fixture
def files(tmp_path):
    write_units(tmp_path / "a.parquet", A, META)
    write_units(tmp_path / "b.parquet", B, META)
    return str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")


def test_what_differs():
    found = diff_units(store_of(A, META), store_of(B, META))
    assert (found.only_first, found.only_second) == (["only"], ["more", "less"])
    assert (found.utterances, found.changed) == (3, 2)
    assert (found.differing, found.units) == (2 + 2, 3 + 3 + 1)
    assert found.rate == pytest.approx(4 / 7)
    assert not found.same
    first = {one.utterance_id: one for one in found.first}
    assert (first["one"].unit, first["one"].seconds, first["one"].first, first["one"].second) == (1, 0.02, [2], [9])
    assert (first["two"].unit, first["two"].differing, first["two"].lengths) == (1, 2, (2, 3))
    mirrored = diff_units(store_of(B, META), store_of(A, META))
    assert mirrored.only_first == found.only_second
    assert mirrored.differing == found.differing
    assert next(one for one in mirrored.first if one.utterance_id == "one").first == [9]


def test_a_longer_sequence_differs_where_the_other_ends():
    found = diff_units(store_of(rows(a=[1, 2]), META), store_of(rows(a=[1, 2, 3]), META))
    assert (found.first[0].unit, found.first[0].first, found.first[0].second) == (2, None, [3])
    assert "a: unit 2 (0.040 s) is the end and 3; 1 differ, 2 and 3 units" in report(found, "x", "y")


def test_order_and_missing_metadata_are_no_difference():
    found = diff_units(store_of(A, META), store_of(A[::-1], replace(META, frame_rate=None, checkpoint="x")))
    assert found.same
    assert found.meta == {}
    other = diff_units(store_of(A, replace(META, checkpoint="y")), store_of(A, replace(META, checkpoint="x")))
    assert other.same
    assert other.meta == {"checkpoint": ("y", "x")}


def test_durations_count():
    short = [deduplicate(row) for row in rows(a=[1, 1, 2, 2, 2])]
    meta = replace(META, deduplicated=True)
    changed = [replace(short[0], durations=np.array([2, 1]))]
    found = diff_units(store_of(short, meta), store_of(changed, meta))
    assert (found.differing, found.units) == (1, 2)
    assert (found.first[0].seconds, found.first[0].first, found.first[0].second) == (0.04, [2, 3], [2, 1])


def test_nothing_waits_when_the_order_is_the_same():
    """Utterances are compared as soon as both sides have had them: memory is flat."""
    alive: list[int] = [0]

    class Counted(UtteranceUnits):
        def __del__(self):
            alive[0] -= 1

    most = 0

    def units():
        nonlocal most
        for number in range(300):
            alive[0] += 1
            most = max(most, alive[0])
            yield Counted(f"u{number}", np.zeros((1, 5), int))

    found = diff_units(UnitSource(META, units, "a"), UnitSource(META, units, "b"))
    assert found.utterances == 300
    assert most <= 8


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (replace(META, frame_rate=25.0), "a has 50 units a second and b has 25: .* cannot be compared"),
        (replace(META, num_codebooks=2), "codebooks: 1 in a, 2 in b"),
        (replace(META, deduplicated=True), "deduplicated: False in a, True in b"),
    ],
)
def test_what_cannot_be_compared(meta, message):
    with pytest.raises(UserError, match=message):
        diff_units(UnitSource(META, lambda: iter(()), "a"), UnitSource(meta, lambda: iter(()), "b"))


def test_exit_codes_and_report(files, tmp_path, capsys):
    a, b = files
    assert main(["units", "diff", a, a]) == 0
    assert "4 utterances in both, 0 of them differ: 0 of 7 units (0.0000%)" in capsys.readouterr().out
    assert main(["units", "diff", a, b, "--max", "1"]) == 1
    assert capsys.readouterr().out == (
        f"only in {a}: 1 utterances (only)\n"
        f"only in {b}: 2 utterances (more and 1 more)\n"
        "two: unit 1 (0.020 s) is 4 and 7; 2 differ, 2 and 3 units\n"
        "... and 1 more utterances\n"
        "3 utterances in both, 2 of them differ: 4 of 7 units (57.1429%)\n"
    )
    assert main(["units", "convert", a, str(tmp_path / "text.km.x")]) == 0
    assert main(["units", "diff", a, str(tmp_path / "text.km.x")]) == 0
    assert main(["units", "diff", str(tmp_path / "text.km.x"), b]) == 1
    capsys.readouterr()
    assert main(["units", "diff", a, str(tmp_path / "gone.parquet")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "no such unit store" in captured.err


def test_show(files, tmp_path, capsys):
    a, _ = files
    assert main(["units", "show", a, "--utterance", "two", "--utterance", "one"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("two ") < shown.index("one ")
    assert "4 utterances, 1 x 10 codes, 50 Hz" in shown
    assert "two  speaker unknown, 2 units, 0.04 s\n  4 4\n" in shown
    assert main(["units", "show", a, "--max", "1"]) == 0
    assert "3 more; --max 0 shows all" in capsys.readouterr().out
    assert main(["units", "convert", a, str(tmp_path / "a.gslm")]) == 0
    assert main(["units", "show", str(tmp_path / "a.gslm"), "--utterance", "only"]) == 0
    assert "only  speaker unknown, 1 units" in capsys.readouterr().out
    for file in (a, str(tmp_path / "a.gslm")):
        assert main(["units", "show", file, "--utterance", "nobody"]) == 1
        assert "no utterance 'nobody'" in capsys.readouterr().err


def test_show_of_all_that_a_store_may_hold(tmp_path, capsys):
    meta = replace(META, num_codebooks=2, f0={"method": "pyin"}, entropy=True, top_k=2, sample_seeds=(7,))
    row = UtteranceUnits(
        "a",
        np.array([[1, 2], [3, 4]]),
        f0=np.array([0, 120.4]),
        entropy=np.array([[0.5, 0.25], [0, 1]]),
        top_codes=np.array([[[1, 5], [2, 5]], [[3, 6], [4, 6]]]),
        top_probabilities=np.array([[[0.75, 0.25]] * 2] * 2),
        samples=np.array([[[5, 2], [3, 6]]]),
    )
    write_units(tmp_path / "a.parquet", [row], meta)
    assert main(["units", "show", str(tmp_path / "a.parquet")]) == 0
    out = capsys.readouterr().out
    assert "F0 by pyin, entropy, the 2 most probable codes, samples with seeds 7" in out
    for line in ("F0 - 120 Hz", "entropy 0.50 0.25 nats", "probable 3:0.75,6:0.25 4:0.75,6:0.25", "seed 7 3 6"):
        assert f"  {line}\n" in out


def test_a_draw_takes_the_place_of_the_codes(tmp_path, capsys):
    meta = replace(META, sample_seeds=(7, 9))
    row = UtteranceUnits("a", np.array([[1, 1]]), samples=np.array([[[2, 3]], [[4, 4]]]))
    write_units(tmp_path / "a.parquet", [row], meta)
    assert main(["units", "convert", str(tmp_path / "a.parquet"), str(tmp_path / "a.gslm"), "--sample", "9"]) == 0
    assert (tmp_path / "a.gslm").read_text() == "a|4 4\n"
    argv = ["units", "convert", str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), "--sample", "7"]
    assert main([*argv, "--deduplicate"]) == 0
    store = read_units(tmp_path / "b.parquet")
    assert (store.meta.sampled, store.meta.sample_seeds, store.meta.deduplicated) == (7, (), True)
    assert store["a"].codes.tolist() == [[2, 3]]
    assert main(["units", "convert", str(tmp_path / "a.parquet"), str(tmp_path / "c.km"), "--sample", "8"]) == 1
    assert "no units drawn with seed 8 (seeds: 7, 9)" in capsys.readouterr().err


def test_deduplicated_units_of_one_codebook_have_no_runs():
    two = store_of([UtteranceUnits("a", np.array([[1, 1, 1], [2, 2, 3]]))], UnitStoreMeta(4, 2))
    (row,) = list(deduplicated(two))
    assert row.durations.tolist() == [2, 1]
    (first,), (second,) = (list(one_codebook(deduplicated(two), number)) for number in (0, 1))
    assert (first.codes.tolist(), first.durations.tolist()) == ([[1]], [3])
    assert (second.codes.tolist(), second.durations.tolist()) == ([[2, 3]], [2, 1])
