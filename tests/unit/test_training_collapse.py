"""The warning of a collapsed codebook: once a collapse, after long enough, and the same after a resume."""

import logging

import pytest
import torch

from sqvae_speech.training.collapse import CollapseWatch


def counts(used: int, size: int = 100, each: int = 50) -> torch.Tensor:
    found = torch.zeros(size, dtype=torch.float64)
    found[:used] = each
    return found


def test_one_warning_a_collapse(caplog):
    watch = CollapseWatch(0.1, patience=100)
    with caplog.at_level(logging.INFO):
        seen = [watch.look(step, counts(4)) for step in range(50, 401, 50)]
        assert seen == [False, False, True, True, True, True, True, True]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "since step 50 less than 10% of its codes have been in use (4 of 100 at step 150)" in caplog.text
        assert not watch.look(450, counts(60))
        assert watch.look(500, counts(3)) is False
        assert watch.look(600, counts(3)) is True
    assert caplog.text.count("has collapsed") == 2
    assert caplog.text.count("has recovered") == 1


def test_few_units_cannot_use_many_codes():
    watch = CollapseWatch(0.5, patience=0)
    # 8 units that are all different: as many codes as could be
    assert not watch.look(1, counts(8, size=512, each=1))
    assert watch.look(2, counts(3, size=512, each=100))


def test_the_least_used_codebook_decides(caplog):
    watch = CollapseWatch(0.1, patience=0)
    assert watch.look(1, torch.stack([counts(90), counts(2), counts(50)]))
    assert "the codebook 1 has collapsed" in caplog.text


@pytest.mark.parametrize("used", [0, 1])
def test_zero_turns_it_off(used):
    assert not CollapseWatch(0.0, patience=0).look(1, counts(used))


def test_only_one_process_speaks(caplog):
    with caplog.at_level(logging.INFO):
        assert CollapseWatch(0.1, patience=0, quiet=True).look(1, counts(2))
    assert caplog.messages == []


def test_resumed_it_is_the_watch_never_interrupted(caplog):
    whole, first = CollapseWatch(0.1, 100), CollapseWatch(0.1, 100)
    for step in (50, 100):
        assert whole.look(step, counts(2)) == first.look(step, counts(2))
    second = CollapseWatch(0.1, 100)
    second.load_state_dict(first.state_dict())
    assert whole.look(150, counts(2)) == second.look(150, counts(2)) is True
