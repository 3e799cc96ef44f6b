"""What can be heard of a run: one utterance in several voices, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sqvae_speech.reporting.drawing import Svg


@dataclass(frozen=True)
class Voice:
    """One way in which an utterance is heard.

    Attributes:
        label: which.
        sound: ``data:`` address of the recording.
        picture: ``data:`` address of its log-mel, or of another picture; None without.
        alt: what the picture shows.
    """

    label: str
    sound: str
    picture: str | None = None
    alt: str = ""


@dataclass(frozen=True)
class Example:
    """An utterance in several voices.

    Attributes:
        title: which utterance.
        text: what is said, where that is known.
        voices: the same in several ways.
        strip: its phones and units over time.
    """

    title: str
    text: str
    voices: tuple[Voice, ...]
    strip: Markup | None = None


@dataclass(frozen=True)
class Span:
    """From ``start`` to ``end``, in seconds: what is said, or which code is chosen."""

    start: float
    end: float
    label: str


def strip(title: str, seconds: float, phones: Sequence[Span], units: Sequence[Span]) -> Markup:
    """Phones and units over time, one above the other; runs of one unit are one block."""
    svg = Svg(960, 58 if phones else 34, title)
    left = 44.0
    scale = (svg.width - left - 2) / max(seconds, 1e-6)
    top = 0.0
    if phones:
        svg.add("text", "phones", x=left - 6, y=15.0, class_="label small end")
        for phone in phones:
            x, width = left + phone.start * scale, (phone.end - phone.start) * scale
            svg.add("line", x1=x, x2=x, y1=2.0, y2=22.0, class_="axis")
            svg.add("text", phone.label, x=x + width / 2, y=15.0, class_="label small middle")
        top = 24.0
    svg.add("text", "units", x=left - 6, y=top + 20, class_="label small end")
    for unit in _runs(units):
        x, width = left + unit.start * scale, (unit.end - unit.start) * scale
        hue = int(unit.label.partition(" ")[0]) * 137.508 % 360  # the golden angle: neighbours are told apart
        tooltip = f"{unit.label}, {unit.start:.2f} to {unit.end:.2f} s"
        svg.add(
            "rect", x=x, y=top + 4, width=width, height=26.0, class_="unit", style=f"--hue:{hue:.0f}", tooltip=tooltip
        )
        if width >= 7.5 * len(unit.label):
            svg.add("text", unit.label, x=x + width / 2, y=top + 21, class_="unit-label middle")
    return svg.markup()


def _runs(units: Sequence[Span]) -> list[Span]:
    runs: list[Span] = []
    for unit in units:
        if runs and runs[-1].label == unit.label:
            runs[-1] = Span(runs[-1].start, unit.end, unit.label)
        else:
            runs.append(unit)
    return runs
