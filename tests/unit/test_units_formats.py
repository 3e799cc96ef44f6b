"""Text forms: the lines other toolkits expect, both ways, and a message for everything that would be misread."""

import numpy as np
import pytest

from sqvae_speech.errors import UserError
from sqvae_speech.units.formats import format_of, read_format, write_format
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStoreMeta, store_of

META = UnitStoreMeta(codebook_size=100, frame_rate=50.0)
ROWS = [
    UtteranceUnits("p226_001", np.array([[71, 12, 57]]), speaker="p226"),
    UtteranceUnits("p225_002", np.array([[0]])),
    UtteranceUnits("p225_001", np.zeros((1, 0), dtype=np.int64)),
    UtteranceUnits("a|b", np.array([[99, 99]])),
]


@pytest.fixture
def store():
    return store_of(ROWS, META)


def pairs(store):
    return {units.utterance_id: units.codes.tolist() for units in store}


def test_exact_lines(tmp_path, store):
    for name in ("km", "gslm", "kaldi"):
        write_format(tmp_path / f"test.{name}", store)
    assert (tmp_path / "test.km").read_text() == "71 12 57\n0\n\n99 99\n"
    assert (tmp_path / "test.ids").read_text() == "p226_001\np225_002\np225_001\na|b\n"
    assert (tmp_path / "dict.km.txt").read_text() == "".join(f"{code} 1\n" for code in range(100))
    assert (tmp_path / "test.gslm").read_text() == "p226_001|71 12 57\np225_002|0\np225_001|\na|b|99 99\n"
    assert (tmp_path / "code_dict").read_text().split("\n") == [*map(str, range(100)), ""]
    # sorted by bytes, as Kaldi's tools demand
    assert (tmp_path / "test.kaldi").read_text() == "a|b 99 99\np225_001\np225_002 0\np226_001 71 12 57\n"


@pytest.mark.parametrize("name", ["km", "gslm", "kaldi", "parquet"])
def test_round_trips(tmp_path, store, name):
    files = write_format(tmp_path / "x" / f"test.{name}", store)
    assert sorted(tmp_path.glob("x/*")) == sorted(files)
    back = read_format(tmp_path / "x" / f"test.{name}")
    assert pairs(back) == pairs(store)
    assert back.meta == store.meta
    if name != "kaldi":
        assert back.ids == store.ids


def test_km_takes_its_ids_from_a_fairseq_manifest(tmp_path, store):
    write_format(tmp_path / "test.km", store)
    (tmp_path / "test.ids").unlink()
    with pytest.raises(UserError, match="carry no ids"):
        read_format(tmp_path / "test.km")
    (tmp_path / "test.tsv").write_text("/root\np226/p226_001.flac\t100\np225/x.y.flac\t5\nc.wav\t1\nd.wav\t1\n")
    assert read_format(tmp_path / "test.km").ids == ["p226_001", "x%2Ey", "c", "d"]
    (tmp_path / "utt2spk").write_text("one s\ntwo s\n")
    with pytest.raises(UserError, match=r"names 2 utterances, and .* has 4 lines"):
        read_format(tmp_path / "test.km", ids=tmp_path / "utt2spk")


def test_codebook_sizes_that_contradict(tmp_path, store):
    write_format(tmp_path / "test.km", store)
    with pytest.raises(UserError, match="codebook_size of 100, not 50"):
        read_format(tmp_path / "test.km", codebook_size=50)
    write_format(tmp_path / "test.kaldi", store)
    (tmp_path / "test.kaldi.json").unlink()
    assert read_format(tmp_path / "test.kaldi").meta.codebook_size == 100  # by the dictionary
    (tmp_path / "units.txt").unlink()
    with pytest.raises(UserError, match="give --codebook-size"):
        read_format(tmp_path / "test.kaldi")
    with pytest.raises(UserError, match=r"kaldi:1: a\|b: code 99 is outside a codebook of 50"):
        read_format(tmp_path / "test.kaldi", codebook_size=50)
    write_format(tmp_path / "test.parquet", store)
    with pytest.raises(UserError, match="codebook_size of 100, not 50"):
        read_format(tmp_path / "test.parquet", codebook_size=50)


def test_a_dictionary_is_not_taken_from_under_other_files(tmp_path, store):
    small = store_of(ROWS[1:2], UnitStoreMeta(codebook_size=2))
    write_format(tmp_path / "train.km", store)
    with pytest.raises(UserError, match=r"lists 100 codes and serves train\.km; these units have a codebook of 2"):
        write_format(tmp_path / "dev.km", small)
    assert not (tmp_path / "dev.km").exists()
    assert len((tmp_path / "dict.km.txt").read_text().splitlines()) == 100
    write_format(tmp_path / "train.km", small)  # its own file may change
    assert (tmp_path / "dict.km.txt").read_text() == "0 1\n1 1\n"


def test_a_dictionary_in_another_order_is_refused(tmp_path, store):
    write_format(tmp_path / "test.km", store)
    (tmp_path / "dict.km.txt").write_text("5 100\n3 20\n")
    with pytest.raises(UserError, match=r"dict\.km\.txt:1: '5' where '0' is needed"):
        read_format(tmp_path / "test.km")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("gslm", "71 12 57", r"gslm:2: expected `name\|71 12 57`; the line is '71 12 57'"),
        ("gslm", "a|71 x", r"gslm:2: 'x' is not a code; the line is 'a\|71 x'"),
        ("gslm", "ok|1", "'ok' comes twice"),
        ("kaldi", "", "kaldi:2: expected `utt 71 12 57`"),
        ("kaldi", "a -1", "kaldi:2: '-1' is not a code"),
        ("kaldi", "a 99999999999999999999", "kaldi:2: "),
    ],
)
def test_bad_lines_are_quoted(tmp_path, name, line, message):
    good = {"gslm": "ok|1", "kaldi": "ok 1"}[name]
    (tmp_path / f"x.{name}").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_format(tmp_path / f"x.{name}", codebook_size=100)


def test_several_codebooks_need_a_choice(tmp_path):
    store = store_of([UtteranceUnits("u", np.array([[1, 2], [3, 4]]))], UnitStoreMeta(8, num_codebooks=2))
    with pytest.raises(UserError, match="2 codebooks and gslm holds one"):
        write_format(tmp_path / "x.gslm", store)
    write_format(tmp_path / "x.gslm", store, codebook=1)
    assert (tmp_path / "x.gslm").read_text() == "u|3 4\n"
    with pytest.raises(UserError, match="no codebook 2"):
        write_format(tmp_path / "x.gslm", store, codebook=2)


def test_names_of_formats(tmp_path):
    assert format_of("a/b.km") == "km"
    assert format_of("text", "kaldi") == "kaldi"
    with pytest.raises(UserError, match="did you mean 'kaldi'"):
        format_of("x", "kalid")
    with pytest.raises(UserError, match=r"'\.txt' names no unit format"):
        format_of("x.txt")
    with pytest.raises(UserError, match="does not exist"):
        read_format(tmp_path / "none.gslm")
    (tmp_path / "latin.gslm").write_bytes(b"a\xff|1\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_format(tmp_path / "latin.gslm", codebook_size=4)
    with pytest.raises(UserError, match="white space"):
        write_format(tmp_path / "x.gslm", store_of([UtteranceUnits("a b", np.array([[1]]))], UnitStoreMeta(4)))
    assert not (tmp_path / "x.gslm").exists()
