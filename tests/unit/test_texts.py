"""From text to symbols: normalisation, phones, what is refused."""

import sys

import pytest

from sqvae_speech.data import espeak
from sqvae_speech.data.texts import BEGIN, END, PAUSE, TextFrontEnd, normalized, numbers_of
from sqvae_speech.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  It’s\n“SO”  – fine… ", 'it\'s "so" - fine.'),
        ("Cafe\u0301", "café"),
    ],
)
def test_normalisation(text, expected):
    assert normalized(text) == expected


def test_characters():
    assert TextFrontEnd().symbols('"Oh, no!"') == [BEGIN, *"oh, no!", END]


def test_phones_have_no_stress_and_no_word_boundaries_but_pauses():
    symbols = TextFrontEnd("phones").symbols("A brown fox, and 2 geese.")
    text = "".join(symbols)
    assert symbols[0] == BEGIN
    assert symbols[-1] == END
    assert symbols.count(PAUSE) == 1
    assert "bɹ" in text
    assert "t" in symbols[symbols.index(PAUSE) :], "two"
    assert not set("ˈˌ_ ") & set(text.replace(BEGIN, "").replace(PAUSE, "").replace(END, ""))
    assert TextFrontEnd("phones").symbols("A brown fox, and 2 geese.") == symbols


def test_languages():
    assert TextFrontEnd("phones", "de").symbols("ich") != TextFrontEnd("phones", "en-us").symbols("ich")
    with pytest.raises(UserError, match="no language 'xx-none'"):
        TextFrontEnd("phones", "xx-none").symbols("a")


def test_a_missing_package_says_what_to_install(monkeypatch):
    espeak._shared_engine.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        TextFrontEnd("phones").symbols("a")
    espeak._shared_engine.cache_clear()


@pytest.mark.parametrize("kind", ["characters", "phones"])
def test_a_text_of_nothing_is_refused(kind):
    with pytest.raises(UserError, match=r"nothing can be said of the text ' \.\.\. '"):
        TextFrontEnd(kind).symbols(" ... ")


def test_unknown_symbols_are_listed():
    known = (BEGIN, END, "a", "b", " ")
    assert numbers_of([BEGIN, "b", END], known, "b") == [0, 3, 1]
    with pytest.raises(
        UserError, match=r"'b 7z' has what the model never read in training: '7', 'z'. It knows: a b\."
    ):
        numbers_of([BEGIN, *"b 7z", END], known, "b 7z")
