"""What charts are made of: an SVG element tree, axes with round numbers, and numbers as people write them."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

COLOURS = 8  # of the style sheet: classes c0 to c7


class Svg:
    """An inline SVG picture; its colours are classes of the page's style sheet, so that it follows light and dark.

    Args:
        width, height: of the coordinate system; the page scales the picture to its column.
        title: what it shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, title: str):
        self.width = width
        self.height = height
        self._parts = [f"<title>{escape(title)}</title>"]

    def add(self, tag: str, text: str | None = None, tooltip: str | None = None, **attributes: object) -> None:
        """Add an element.

        Args:
            tag: its name.
            text: that it holds.
            tooltip: shown where a pointer rests on it.
            attributes: ``class_`` for ``class``, and ``_`` for ``-``; numbers are rounded to a tenth.
        """
        words = "".join(f' {name.strip("_").replace("_", "-")}="{_attribute(v)}"' for name, v in attributes.items())
        inside = "" if text is None else escape(text)
        if tooltip is not None:
            inside += Markup("<title>{}</title>").format(tooltip)
        self._parts.append(f"<{tag}{words}>{inside}</{tag}>" if inside else f"<{tag}{words}/>")

    def markup(self) -> Markup:
        """The picture, to be put into HTML."""
        head = f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img">'
        return Markup(head + "".join(self._parts) + "</svg>")


class Axis:
    """From values to places.

    Args:
        low, high: the range of values; made wider where they are equal.
        start, end: places of the two.
        log: logarithmic; both values have to be positive.
    """

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False):
        if high <= low:
            spread = abs(low) * 0.1 or 1.0
            low, high = (low / 2, high * 2) if log else (low - spread, high + spread)
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """Round values in the range, about so many."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values, about ``count`` of them."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two values; where they are fewer than three, with twice and five times them, or ticks."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 2.0, 5.0)):
        found = [factor * 10.0**e for e in exponents for factor in factors if low <= factor * 10.0**e <= high]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // 5)] if len(found) >= 3 else ticks(low, high)


def short(value: float) -> str:
    """A number for an axis or a table: ``2,000``, ``1.5M``, ``0.0004``, ``2e-06``."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size < 100 else f"{value:.4g}"


def colour_class(number: int) -> str:
    """Classes of the style sheet for a colour; those beyond the palette are dashed."""
    return f"c{number % COLOURS}{' dashed' if number >= COLOURS else ''}"


def path(points: Sequence[tuple[float, float]]) -> str:
    """The ``d`` of a line through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _attribute(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))
