"""Ids: which are refused, and that escaping loses nothing."""

import random

import pytest

from sqvae_speech.data.ids import check_id, escape_id, unescape_id
from sqvae_speech.errors import UserError


@pytest.mark.parametrize("name", ["p225-001", "a_b", "Ünï", "en+f2", "x%20y", "-", "日本"])
def test_legal_ids(name):
    assert check_id(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my utt", "a space"),
        ("utt.1", "a dot"),
        ("a/b", "a slash"),
        ("a\\b", r"'\\\\'"),
        ("a\tb", r"'\\t'"),
        ("a\u00a0b", "xa0"),
        ("a\u200bb", "u200b"),
        ("", "empty"),
        ("x" * 201, "201 bytes"),
    ],
)
def test_illegal_ids(name, why):
    with pytest.raises(UserError, match=why):
        check_id(name, "some/file:3")


def test_message_names_the_place_and_the_remedy():
    with pytest.raises(UserError, match=r"^text:7: utterance id 'a b\.c' contains a space, a dot; .*'a%20b%2Ec'"):
        check_id("a b.c", "text:7")


def test_escaping_is_reversible_and_gives_legal_ids():
    rng = random.Random(0)
    alphabet = "ab-_%2E ./\\\t\n\u00a0é日\u200b😀"
    raws = ["".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(2000)]
    escaped = [escape_id(raw) for raw in raws]
    assert [unescape_id(name) for name in escaped] == raws
    assert len(set(escaped)) == len(set(raws))
    for name in escaped:
        check_id(name)
    assert escape_id("p225-001") == "p225-001"


def test_what_is_not_an_escape_is_refused():
    with pytest.raises(UserError, match="not UTF-8"):
        unescape_id("a%FFb")
