"""The charts of a report, as inline SVG."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sqvae_speech.reporting.drawing import Axis, Svg, colour_class, path, short

MOST_POINTS = 600  # of a curve: more than a chart has pixels for
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 8.0, 32.0


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        name: for the key; equal names share an entry.
        x, y: of one length; values that are not finite are left out.
        colour: of the page's palette.
        area: fill what is below.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    area: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Attributes:
        title: what it shows.
        picture: HTML.
        keys: name -> colour, of several curves.
        note: what to see in it, or how to read it.
        size: ``""`` for one of several in a row, ``large`` for twice that, ``wide`` for the whole width; the last two
            scroll by themselves where there is less room.
    """

    title: str
    picture: Markup
    keys: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    size: str = ""


def line_chart(
    title: str,
    series: Iterable[Series],
    *,
    xlabel: str = "step",
    log_y: bool = False,
    late: bool = True,
    note: str = "",
) -> Figure | None:
    """Curves over a common axis; None where no value can be shown.

    Args:
        title: what they are.
        series: the curves.
        xlabel: of the common axis.
        log_y: a logarithmic vertical axis.
        late: the vertical range is that of the curves after the first twentieth of the way, if there are values
            enough: a network that has just begun would leave nothing to see of the rest. What lies outside is drawn
            at the edge.
        note: for the caption.
    """
    shown = [(one, _thinned(one, positive=log_y)) for one in series]
    shown = [(one, points) for one, points in shown if points]
    if not shown:
        return None
    everything = [point for _, points in shown for point in points]
    first, last = min(x for x, _ in everything), max(x for x, _ in everything)
    later = [y for x, y in everything if x >= first + 0.05 * (last - first)]
    heights = later if late and len(later) >= 20 else [y for _, y in everything]
    svg = Svg(340, 190, title)
    low, high = min(heights), max(heights)
    margin = 0.0 if log_y else 0.04 * (high - low)
    across = Axis(first, last, _LEFT, svg.width - _RIGHT)
    up = Axis(low - margin, high + margin, svg.height - _BOTTOM, _TOP, log=log_y)
    _axes(svg, across, up, xlabel)
    for one, points in shown:
        # what lies outside is kept at the edge
        places = [(across(x), min(max(up(y), _TOP - 1), up.start + 1)) for x, y in points]
        line = path(places)
        if one.area:
            svg.add(
                "path",
                d=f"{line}L{places[-1][0]:.1f} {up.start:.1f}L{places[0][0]:.1f} {up.start:.1f}Z",
                class_=f"area {colour_class(one.colour)}",
            )
        svg.add("path", d=line, class_=f"line {colour_class(one.colour)}")
        if len(points) <= 12:
            for x, y in places:
                svg.add("circle", cx=x, cy=y, r=2.2, class_=f"dot {colour_class(one.colour)}")
    names = {one.name: one.colour for one, _ in shown}
    return Figure(title, svg.markup(), names if len(names) > 1 else {}, note)


def histogram(title: str, edges: Sequence[float], counts: Sequence[float], *, xlabel: str, note: str = "") -> Figure:
    """Bars of counts (B) between edges (B + 1)."""
    svg = Svg(340, 190, title)
    across = Axis(edges[0], edges[-1], _LEFT, svg.width - _RIGHT)
    up = Axis(0.0, max(max(counts), 1e-12), svg.height - _BOTTOM, _TOP)
    _axes(svg, across, up, xlabel)
    for number, count in enumerate(counts):
        left, right = across(edges[number]), across(edges[number + 1])
        svg.add(
            "rect",
            x=left + 0.4,
            y=up(count),
            width=max(right - left - 0.8, 0.4),
            height=up.start - up(count),
            class_="bar c0",
            tooltip=f"{short(edges[number])} to {short(edges[number + 1])}: {short(count)}",
        )
    return Figure(title, svg.markup(), note=note)


@dataclass(frozen=True)
class Dots:
    """A row of a dot plot.

    Attributes:
        name: at its left.
        values: series -> value; None where there is none.
        own: of the run that the page is about, not of a peer.
    """

    name: str
    values: Mapping[str, float | None]
    own: bool = True


def dot_plot(title: str, rows: Sequence[Dots], *, xlabel: str, note: str = "") -> Figure | None:
    """Values as dots on a line a row, so that rows can be compared by eye; None without a value."""
    rows = [row for row in rows if any(value is not None for value in row.values.values())]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    values = [value for row in rows for value in row.values.values() if value is not None]
    left, height = 140.0, 22.0
    svg = Svg(440, _TOP + height * len(rows) + _BOTTOM, title)
    across = Axis(min(0.0, *values), max(values) * 1.05, left, svg.width - 16)
    bottom = svg.height - _BOTTOM
    for tick in across.ticks(5):
        svg.add("line", x1=across(tick), x2=across(tick), y1=_TOP, y2=bottom, class_="grid")
        svg.add("text", short(tick), x=across(tick), y=bottom + 14, class_="tick middle")
    svg.add("text", xlabel, x=(left + svg.width) / 2, y=svg.height - 4, class_="tick middle")
    for number, row in enumerate(rows):
        y = _TOP + height * (number + 0.5)
        own = "" if row.own else " peer"
        svg.add("text", clipped(row.name, 23), x=left - 10, y=y + 4, class_=f"label end{own}")
        found = [value for value in row.values.values() if value is not None]
        svg.add("line", x1=across(min(found)), x2=across(max(found)), y1=y, y2=y, class_=f"span{own}")
        for place, name in enumerate(names):
            value = row.values.get(name)
            if value is not None:
                tooltip = f"{row.name}, {name}: {short(value)}"
                svg.add(
                    "circle", cx=across(value), cy=y, r=5, class_=f"dot {colour_class(place)}{own}", tooltip=tooltip
                )
    return Figure(title, svg.markup(), {name: place for place, name in enumerate(names)}, note, "large")


@dataclass(frozen=True)
class MapPoint:
    """A point of a map: where, how large (an area), what it is called, and what a pointer is told."""

    x: float
    y: float
    weight: float
    label: str
    tooltip: str


def point_map(
    title: str, points: Sequence[MapPoint], others: Sequence[tuple[float, float]], note: str = ""
) -> Figure:
    """Labelled points of a plane on one scale, coloured by label; ``others`` are crosses."""
    width = 440.0
    xs = [point.x for point in points] + [x for x, _ in others]
    ys = [point.y for point in points] + [y for _, y in others]
    low_x, low_y = min(xs), min(ys)
    spread_x, spread_y = max(xs) - low_x or 1.0, max(ys) - low_y or 1.0
    scale = min((width - 40) / spread_x, 340 / spread_y)
    svg = Svg(width, spread_y * scale + 40, title)
    left = (width - spread_x * scale) / 2

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - low_x) * scale, svg.height - 20 - (y - low_y) * scale

    for x, y in (place(*other) for other in others):
        svg.add("path", d=f"M{x - 2:.1f} {y - 2:.1f}l4 4m0 -4l-4 4", class_="cross")
    labels = sorted({point.label for point in points})
    heaviest = max((point.weight for point in points), default=1.0) or 1.0
    for point in sorted(points, key=lambda point: -point.weight):  # small ones on top of large ones
        x, y = place(point.x, point.y)
        hue = 360 * labels.index(point.label) / max(len(labels), 1)
        svg.add(
            "circle",
            cx=x,
            cy=y,
            r=2.5 + 8.5 * math.sqrt(point.weight / heaviest),
            class_="code",
            style=f"--hue:{hue:.0f}",
            tooltip=point.tooltip,
        )
    written: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: -point.weight):  # where there is room
        x, y = place(point.x, point.y)
        if all(abs(x - other_x) > 13 or abs(y - other_y) > 9 for other_x, other_y in written):
            written.append((x, y))
            svg.add("text", point.label, x=x, y=y + 3, class_="code-label middle")
    return Figure(title, svg.markup(), note=note, size="large")


def heat_map(title: str, uri: str, rows: Sequence[str], xlabel: str, ylabel: str, note: str = "") -> Figure:
    """A picture of numbers, a row a name.

    Args:
        title: what it shows.
        uri: of the picture, row 0 at the top.
        rows: their names.
        xlabel: what its columns are.
        ylabel: what its rows are.
        note: for the caption.
    """
    height, left = 11.0 if len(rows) <= 50 else 9.0, 44.0
    svg = Svg(760, 18 + height * len(rows) + 20, title)
    svg.add("text", ylabel, x=left - 6, y=11, class_="tick end")
    svg.add(
        "image",
        href=uri,
        x=left,
        y=18.0,
        width=svg.width - left - 6,
        height=height * len(rows),
        preserveAspectRatio="none",
        class_="pixels",
    )
    svg.add("rect", x=left, y=18.0, width=svg.width - left - 6, height=height * len(rows), class_="frame")
    for number, name in enumerate(rows):
        svg.add("text", name, x=left - 6, y=18 + height * (number + 0.8), class_="label tiny end")
    svg.add("text", xlabel, x=(left + svg.width) / 2, y=svg.height - 5, class_="tick middle")
    return Figure(title, svg.markup(), note=note, size="wide")


def clipped(text: str, length: int) -> str:
    """``text``, or its beginning and an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _axes(svg: Svg, across: Axis, up: Axis, xlabel: str) -> None:
    for tick in up.ticks():
        svg.add("line", x1=across.start, x2=across.end, y1=up(tick), y2=up(tick), class_="grid")
        svg.add("text", short(tick), x=across.start - 6, y=up(tick) + 3.5, class_="tick end")
    svg.add("line", x1=across.start, x2=across.end, y1=up.start, y2=up.start, class_="axis")
    for tick in across.ticks(4):
        anchor = "end" if across(tick) > across.end - 14 else "middle"
        svg.add("text", short(tick), x=across(tick), y=up.start + 14, class_=f"tick {anchor}")
    svg.add("text", xlabel, x=(across.start + across.end) / 2, y=svg.height - 4, class_="tick middle")


def _thinned(series: Series, positive: bool) -> list[tuple[float, float]]:
    """Points that can be shown, at most :data:`MOST_POINTS`: means of neighbours where there are more."""
    points = [
        (float(x), float(y))
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not positive)
    ]
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
