"""Speed over a window, remaining time, and the line that shows them."""

import io
import logging

import pytest

from sqvae_speech.training.progress import Meter, ProgressLine


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def slow(clock: Clock, seconds: float):
    while True:
        clock.now += seconds
        yield {"frames": 50}


def work(clock: Clock, meter: Meter, steps: int, wait: float, busy: float) -> None:
    batches = meter.batches(slow(clock, wait), lambda batch: batch["frames"])
    for _ in range(steps):
        next(batches)
        clock.now += busy
        meter.stepped()


def test_rates_are_of_the_steps_and_their_waiting(clock):
    meter = Meter(clock, window=10)
    work(clock, meter, 20, wait=0.1, busy=0.3)
    rates = meter.rates()
    assert rates.steps == pytest.approx(2.5)
    assert rates.amount == pytest.approx(125)
    assert rates.data_seconds == pytest.approx(0.1)
    assert rates.data_share == pytest.approx(0.25)


def test_what_is_older_than_the_window_is_forgotten(clock):
    meter = Meter(clock, window=10)
    work(clock, meter, 5, wait=1.0, busy=3.0)
    work(clock, meter, 100, wait=0.0, busy=0.2)
    assert meter.rates().steps == pytest.approx(5, rel=0.02)
    assert meter.rates().data_share == 0


def test_a_validation_is_no_steps_time_but_part_of_what_remains(clock):
    meter = Meter(clock)
    work(clock, meter, 10, wait=0.0, busy=1.0)
    with meter.pause():
        clock.now += 20
    work(clock, meter, 10, wait=0.0, busy=1.0)
    assert meter.rates().steps == pytest.approx(1)
    assert meter.remaining(30) == pytest.approx(30 * (1 + 20 / 20))


def test_before_the_first_step_nothing_is_claimed(clock):
    meter = Meter(clock)
    assert meter.rates() == (0, 0, 0, 0)
    assert meter.remaining(5) is None
    line = ProgressLine(10, 0, "frames", meter, {}, stream=io.StringIO())
    assert line.text() == "step 0/10"


def test_steps_beyond_counting_do_not_fill_memory(clock):
    meter = Meter(clock, window=5)
    work(clock, meter, 20_000, wait=0.0, busy=0.001)
    assert len(meter._marks) < 60
    assert meter.rates().steps == pytest.approx(1000, rel=0.01)


def test_the_line(clock):
    meter = Meter(clock)
    work(clock, meter, 100, wait=0.05, busy=0.45)
    line = ProgressLine(20_000, 0, "frames", meter, {"loss": ".1f", "usage": ".0%"}, stream=io.StringIO())
    line.stepped(1100)
    line.scalars({"loss": 3.14159, "other": 1.0}, processes=4)
    assert line.text() == "step 1,100/20,000, 2.0 steps/s, 400 frames/s, loss 3.1, 2:37:30 left, 10% waiting for data"


def test_a_slow_run_counts_seconds_a_step(clock):
    meter = Meter(clock)
    work(clock, meter, 3, wait=0.0, busy=4.0)
    assert "4.0 s/step" in ProgressLine(10, 0, "frames", meter, {}, stream=io.StringIO()).text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_one_line_that_is_renewed(clock):
    meter = Meter(clock)
    terminal = Terminal()
    line = ProgressLine(40, 0, "frames", meter, {"loss": ".1f"}, stream=terminal)
    for step in range(1, 41):
        work(clock, meter, 1, wait=0.0, busy=0.5)
        line.stepped(step)
    line.scalars({"loss": 2.0})
    line.log()  # a terminal needs none
    line.close()
    shown = terminal.getvalue().rstrip("\n").split("\r")
    assert "step 40/40, 2.0 steps/s, 100 frames/s, loss 2.0, 0:00:00 left" in shown[-1]
    assert "\n" not in terminal.getvalue().rstrip("\n")
    assert len(shown) < 10  # not once a step


def test_elsewhere_the_log_gets_a_line_when_asked(clock, caplog):
    meter = Meter(clock)
    stream = io.StringIO()
    line = ProgressLine(40, 0, "frames", meter, {}, stream=stream)
    with caplog.at_level(logging.INFO):
        for step in range(1, 41):
            work(clock, meter, 1, wait=0.0, busy=0.5)
            line.stepped(step)
        line.scalars({})
        assert caplog.messages == []
        line.log()
        line.close()
    assert caplog.messages == ["step 40/40, 2.0 steps/s, 100 frames/s, 0:00:00 left, 0% waiting for data"]
    assert stream.getvalue() == ""


def test_nothing_is_shown_when_turned_off(clock, caplog):
    terminal = Terminal()
    line = ProgressLine(40, 0, "frames", Meter(clock), {}, enabled=False, stream=terminal)
    with caplog.at_level(logging.INFO):
        line.stepped(1)
        line.log()
        line.close()
    assert (terminal.getvalue(), caplog.messages) == ("", [])
