"""Every form gives back what it can hold, of any store: no utterance, unit or character of an id changes."""

import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sqvae_speech.data.ids import check_id, escape_id, legal_id, unescape_id
from sqvae_speech.units.formats import open_format, read_format, write_format
from sqvae_speech.units.forms.table import FORMATS, FORMS, PARQUET, file_of
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate, expand
from sqvae_speech.units.store import UnitStore, deduplicated, store_of

FIELDS = [field.name for field in fields(UtteranceUnits)]
# all that is legal in an id, and what looks like an escape or a separator of some form
IDS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="./\\"), min_size=1, max_size=12)
ODD_IDS = st.sampled_from(["a%2Fb", "%2Fx", "a%2F%2Fb", "x%2F", "a|b", "|", "100%", "%2E", "ß-Ü_語", '"', "{}"])
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def stores(draw, runs: bool | None = None) -> UnitStore:
    """A store; ``runs`` says whether it is deduplicated, None leaves that open, too."""
    books, rng = draw(st.integers(1, 3)), np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([1, 2, 40]))  # small: dictionaries list every code of every store
    short = draw(st.booleans()) if runs is None else runs
    timed, top_k = short and draw(st.booleans()), draw(st.integers(0, 2))
    seeds = draw(st.sampled_from([(), (7,), (0, 3)]))
    meta = UnitStoreMeta(
        size,
        books,
        frame_rate=draw(st.sampled_from([50.0, 12.5, 86.1328125])),
        mel_spec=draw(st.none() | st.just({"name": "sqvae16k", "sample_rate": 16_000, "hop_length": 160})),
        checkpoint=draw(st.none() | st.just("abc")),
        deduplicated=short,
        f0={"method": "pyin"} if draw(st.booleans()) else None,
        entropy=draw(st.booleans()),
        top_k=top_k,
        sample_seeds=seeds,
        sampled=draw(st.none() | st.just(5)),
    )
    rows = []
    for name in draw(st.lists(IDS | ODD_IDS, min_size=1, max_size=5, unique=True)):
        count = draw(st.sampled_from([0, 1, 2, 9]))
        codes = rng.integers(0, min(size, draw(st.sampled_from([2, size]))), (books, count))
        if short:
            codes = deduplicate(UtteranceUnits(name, codes)).codes
            count = codes.shape[1]
        rows.append(
            UtteranceUnits(
                name,
                codes,
                speaker=draw(TEXTS),
                durations=rng.integers(1, 9, count) if timed else None,
                text=draw(TEXTS),
                peak=draw(st.none() | st.floats(0, 1)),
                num_frames=draw(st.none() | st.integers(0, 2**31 - 1)),
                num_samples=draw(st.none() | st.integers(0, 2**40)),
                f0=rng.uniform(0, 400, count) * rng.integers(0, 2, count) if meta.f0 else None,
                entropy=rng.random((books, count)) if meta.entropy else None,
                top_codes=rng.integers(0, size, (books, count, top_k)) if top_k else None,
                top_probabilities=rng.random((books, count, top_k)) if top_k else None,
                samples=rng.integers(0, size, (len(seeds), books, count)) if seeds else None,
            )
        )
    return store_of(rows, meta)


def held(store: UnitStore, name: str, codebook: int | None) -> tuple[UnitStoreMeta, list[UtteranceUnits]]:
    """What a form has to give back, by the table's own words about it."""
    if name == PARQUET:
        return store.meta, list(store)
    form = FORMS[name]
    meta = replace(
        store.meta,
        num_codebooks=1 if codebook is not None else store.meta.num_codebooks,
        f0=store.meta.f0 if "f0" in form.holds else None,
        entropy=store.meta.entropy and "entropy" in form.holds,
        top_k=store.meta.top_k if "top_codes" in form.holds else 0,
        sample_seeds=store.meta.sample_seeds if "samples" in form.holds else (),
    )
    rows = []
    for units in store:
        kept = {field: getattr(units, field) if field in form.holds else None for field in FIELDS[2:]}
        if name.startswith("textlesslib") and units.f0 is not None:
            kept["f0"] = np.rint(units.f0)  # it has whole Hz
        if codebook is None:
            rows.append(UtteranceUnits(units.utterance_id, units.codes, **kept))
            continue
        codes, durations, f0 = units.codes[codebook].tolist(), units.durations, units.f0
        if store.meta.deduplicated:  # by hand: what one codebook repeats, though the columns differ
            starts = [n for n, code in enumerate(codes) if n == 0 or code != codes[n - 1]]
            ends = [*starts[1:], len(codes)][: len(starts)]
            codes = [codes[n] for n in starts]
            if "f0" in form.holds and f0 is not None:
                weights = np.ones(len(f0)) if durations is None else durations
                runs = [(f0[a:b], weights[a:b] * (f0[a:b] > 0)) for a, b in zip(starts, ends, strict=True)]
                kept["f0"] = np.rint([(f.astype(float) * w).sum() / w.sum() if w.sum() else 0 for f, w in runs])
            if "durations" in form.holds and durations is not None:
                kept["durations"] = [durations[a:b].sum() for a, b in zip(starts, ends, strict=True)]
        rows.append(UtteranceUnits(units.utterance_id, np.array(codes, dtype=int), **kept))
    return meta, rows if form.in_order else sorted(rows, key=lambda row: row.utterance_id.encode())


def assert_same(one: UtteranceUnits, two: UtteranceUnits) -> None:
    for name in FIELDS:
        first, second = getattr(one, name), getattr(two, name)
        if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
            assert (first.shape, first.dtype) == (second.shape, second.dtype), (one.utterance_id, name)
            np.testing.assert_array_equal(first, second, err_msg=name)
        else:
            assert type(first) is type(second), (one.utterance_id, name)
            assert first == second, (one.utterance_id, name)


def round_trip(name: str, store: UnitStore, folder: Path, codebook: int | None, *, streamed: bool = True) -> None:
    path = file_of(folder / "test", name)
    files = write_format(path, store, name, codebook=codebook)
    assert all(file.exists() for file in files)
    expected_meta, expected = held(store, name, codebook)
    back = read_format(path)
    assert back.meta == expected_meta
    assert back.ids == [row.utterance_id for row in expected]
    for one, two in zip(expected, back, strict=True):
        assert_same(one, two)
    if streamed:  # as it lies in the file, not from memory
        for one, two in zip(expected, open_format(path), strict=True):
            assert_same(one, two)


def fitting(store: UnitStore, name: str) -> UnitStore:
    """The store, or one that a form takes which wants its units deduplicated, or not."""
    runs = None if name == PARQUET else FORMS[name].runs
    if runs is None or runs == store.meta.deduplicated:
        return store
    if runs:
        return store_of(deduplicated(store), deduplicated(store).meta)
    return store_of((replace(row, durations=None) for row in store), replace(store.meta, deduplicated=False))


def check_all_forms(examples: int, *, streamed: bool) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(stores(), st.integers(0, 2))
    def every_store(store: UnitStore, book: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in FORMATS:
                several = name == PARQUET or FORMS[name].several_codebooks
                codebook = None if several or store.meta.num_codebooks == 1 else book % store.meta.num_codebooks
                round_trip(name, fitting(store, name), Path(folder) / name, codebook, streamed=streamed)

    every_store()


def test_round_trips_of_every_form(monkeypatch):
    monkeypatch.setattr("sqvae_speech.units.store._ROWS_PER_GROUP", 2)
    check_all_forms(60, streamed=True)


@pytest.mark.slow
def test_a_thousand_round_trips_of_every_form():
    check_all_forms(1000, streamed=False)


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.dictionary is None] + [PARQUET])
def test_a_codebook_of_millions(name, tmp_path):
    size = 1 << 24
    store = store_of([UtteranceUnits("a", np.array([[size - 1, 0, 12_345_678]]))], UnitStoreMeta(size))
    round_trip(name, store, tmp_path, None)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(min_size=1, max_size=20))
def test_any_name_becomes_a_legal_id_and_comes_back(name):
    try:
        made = legal_id(name)
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    assert check_id(made) == made
    assert legal_id(made) == made
    assert name in (made, unescape_id(made))
    assert made == name or made == escape_id(name)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(stores(runs=False))
def test_deduplication_and_back(store):
    for units in store:
        short = deduplicate(units)
        assert not np.any(np.all(short.codes[:, 1:] == short.codes[:, :-1], axis=0))
        assert short.total_units == units.num_units
        back = expand(short)
        np.testing.assert_array_equal(back.codes, units.codes)
        assert back.durations is None
        for name, weights in (("f0", None if units.f0 is None else units.f0 > 0), ("entropy", 1)):
            if getattr(units, name) is not None and units.num_units:
                one, two = (np.asarray(getattr(u, name), dtype=float) for u in (units, back))
                assert one.shape == two.shape
                # means of runs: no more and no less in all, over what counts
                np.testing.assert_allclose((two * weights).sum(), (one * weights).sum(), rtol=1e-5)
