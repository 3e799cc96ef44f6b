"""Figures as PNG files: log-mels, images, histograms, curves, confusions, maps. Imports nothing of ours.

Figures are made as ``matplotlib.figure.Figure`` objects on the Agg canvas, never through pyplot: no global state, no
display, nothing to close, and safe in a thread beside training. Each function writes beside the name and renames.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

# (onset, offset, label) each
Labels = Sequence[tuple[float, float, str]]


def plot_mels(
    path: str | os.PathLike,
    mels: Mapping[str, Any],
    mel_spec: Any = None,
    labels: Mapping[str, Labels] | None = None,
) -> Path:
    """Draw log-mels one above the other, on one colour scale and one time axis, so that they can be compared by eye.

    Args:
        path: the PNG to write; its folder is made.
        mels: title -> log-mel, (n_mels, frames), array or tensor; lengths may differ.
        mel_spec: gives the time axis in seconds (``hop_length / sample_rate``); without it the axis counts frames.
        labels: title -> (onset, offset, label), in the unit of the time axis: phones or words, written into the mel
            with lines where they begin and end.

    Returns:
        The path written.

    Raises:
        ValueError: for no mel at all, or one that is not 2-D or has no frames.
    """
    panels = {title: _array(mel) for title, mel in mels.items()}
    if not panels:
        raise ValueError("plot_mels: no mels given")
    for title, mel in panels.items():
        if mel.ndim != 2 or mel.size == 0:
            raise ValueError(f"plot_mels: {title!r} has shape {mel.shape}; a log-mel is (n_mels, frames)")
    values = np.concatenate([mel[np.isfinite(mel)] for mel in panels.values()])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    step = 1.0 if mel_spec is None else mel_spec.hop_length / mel_spec.sample_rate
    longest = max(mel.shape[1] for mel in panels.values()) * step

    labels = labels or {}
    most = max((len(intervals) for intervals in labels.values()), default=0)
    # so wide that labels of a letter or two have room
    figure = _figure(min(40.0, max(9.0, 0.17 * most)), 0.6 + 2.0 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, mel) in zip(axes, panels.items(), strict=True):
        extent = (0.0, mel.shape[1] * step, -0.5, mel.shape[0] - 0.5)
        image = axis.imshow(
            mel, origin="lower", aspect="auto", interpolation="nearest", vmin=low, vmax=high, extent=extent
        )
        _draw_labels(axis, labels.get(title, ()), mel.shape[0])
        axis.set_xlim(0.0, longest)
        axis.set_title(title, fontsize=9)
        axis.set_ylabel("mel band", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("frame" if mel_spec is None else "time (s)", fontsize=8)
    figure.colorbar(image, ax=list(axes), fraction=0.03, pad=0.01)
    return _save(figure, path)


def _draw_labels(axis: Any, intervals: Labels, height: int) -> None:
    for edge in sorted({edge for onset, offset, _ in intervals for edge in (onset, offset)}):
        axis.axvline(edge, color="white", linewidth=0.6, alpha=0.6)
    for number, (onset, offset, label) in enumerate(intervals):
        middle, row = (onset + offset) / 2, height * (0.95 if number % 2 else 0.86)
        text = axis.text(middle, row, label, color="white", fontsize=7, ha="center", va="center", clip_on=True)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def plot_images(
    path: str | os.PathLike, images: Mapping[str, Any], *, columns: int = 8, num_classes: int | None = None
) -> Path:
    """Draw images in rows, those of one name above those of the next, so that they can be compared by eye.

    Args:
        path: the PNG to write; its folder is made.
        images: title -> (N, C, H, W) with C 1 or 3, uint8 or float in [0, 1]; all of one shape. Where there are more
            than ``columns``, the rows repeat.
        columns: images a row.
        num_classes: the images are label maps, (N, H, W) of classes, drawn in a colour each.

    Returns:
        The path written.

    Raises:
        ValueError: for no images, or such as differ in shape.
    """
    arrays = {title: _array(values) for title, values in images.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or next(iter(shapes))[0] == 0:
        raise ValueError(f"plot_images: needs images, all of one shape; got {sorted(shapes)}")
    pictures = {title: [_picture(image, num_classes) for image in array] for title, array in arrays.items()}
    count, (height, width) = len(next(iter(pictures.values()))), next(iter(pictures.values()))[0].shape[:2]
    columns = min(columns, count)
    bands = -(-count // columns) * len(pictures)
    figure = _figure(max(3.0, 1.1 * columns), 0.4 + 1.25 * bands * height / width)
    axes = figure.subplots(bands, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (title, drawn) in enumerate(pictures.items()):
        for number, picture in enumerate(drawn):
            axis = axes[number // columns * len(pictures) + row, number % columns]
            axis.imshow(picture, interpolation="nearest")
            if number % columns == 0 and (number == 0 or len(pictures) > 1):
                axis.set_title(title, fontsize=8, loc="left")
    return _save(figure, path)


def image_picture(
    images: Mapping[str, Any], *, columns: int = 8, num_classes: int | None = None, least: int = 64
) -> np.ndarray[Any, Any]:
    """The same images as one without axes and titles.

    Args:
        images: see :func:`plot_images`, as the next two.
        columns: images a row.
        num_classes: of label maps.
        least: pixels that an image is at least high: smaller ones are enlarged by a whole factor.

    Returns:
        (height, width, 3) uint8, with white lines between images.
    """
    rows = [[_picture(image, num_classes) for image in _array(values)] for values in images.values()]
    scale = -(-least // rows[0][0].shape[0])
    framed = [
        [np.pad(one.repeat(scale, 0).repeat(scale, 1), ((0, 2), (0, 2), (0, 0)), constant_values=1.0) for one in row]
        for row in rows
    ]
    blank = np.ones_like(framed[0][0])
    bands = []
    for start in range(0, len(framed[0]), columns):
        for row in framed:
            band = row[start : start + columns]
            bands.append(np.concatenate([*band, *[blank] * (min(columns, len(row)) - len(band))], axis=1))
    return (255 * np.concatenate(bands)).round().astype(np.uint8)


def _picture(image: np.ndarray, num_classes: int | None) -> np.ndarray:
    """(H, W, 3) levels in [0, 1] of an image (C, H, W) or a label map (H, W)."""
    if num_classes is not None:
        return colormaps["turbo"](image / max(num_classes - 1, 1))[..., :3]
    levels = image / 255.0 if image.dtype == np.uint8 else image.clip(0.0, 1.0)
    return np.broadcast_to(levels.transpose(1, 2, 0), (*levels.shape[1:], 3))


def mel_picture(mels: Sequence[Any], scale: int = 3) -> np.ndarray[Any, Any]:
    """Log-mels one above the other as an image without axes, on one colour scale, low bands at the bottom.

    Args:
        mels: (n_mels, frames) each, arrays or tensors; lengths may differ.
        scale: pixels of a value.

    Returns:
        (height, width, 3) uint8, with a white line between mels.
    """
    arrays = [_array(mel) for mel in mels]
    values = np.concatenate([mel[np.isfinite(mel)] for mel in arrays])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    width = max(mel.shape[1] for mel in arrays)
    rows: list[np.ndarray[Any, Any]] = []
    for mel in arrays:
        colours = colormaps["viridis"]((mel[::-1] - low) / max(high - low, 1e-12), bytes=True)[..., :3]
        if rows:
            rows.append(np.full((1, width, 3), 255, np.uint8))
        rows.append(np.pad(colours, ((0, 0), (0, width - mel.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)


def plot_code_histogram(path: str | os.PathLike, counts: Any, title: str | None = None) -> Path:
    """Draw how often each code is used: by code, and sorted on a logarithmic axis, where dead codes show.

    Args:
        path: the PNG to write; its folder is made.
        counts: (K,) uses of each code, or (N, K) for N codebooks (a row of panels each); any non-negative numbers.
        title: what the counts are of; perplexity and usage are written beside it.

    Returns:
        The path written.

    Raises:
        ValueError: for another shape, or a negative or non-finite count.
    """
    books = np.atleast_2d(_array(counts).astype(np.float64))
    if books.ndim != 2 or books.shape[1] == 0:
        raise ValueError(f"plot_code_histogram: counts of shape {np.shape(counts)}; (K,) or (N, K) is legal")
    if not np.all(np.isfinite(books)) or np.any(books < 0):
        raise ValueError("plot_code_histogram: counts must be finite and not negative")
    figure = _figure(10.0, 0.6 + 2.6 * len(books))
    rows = figure.subplots(len(books), 2, squeeze=False)
    for number, (row, book) in enumerate(zip(rows, books, strict=True)):
        used, size = int((book > 0).sum()), len(book)
        name = title or "codes"
        if len(books) > 1:
            name = f"{name}, codebook {number}"
        row[0].fill_between(np.arange(size), book, step="mid")
        row[0].set_title(f"{name}: perplexity {_perplexity(book):.1f}, {used} of {size} used", fontsize=9)
        row[0].set_xlabel("code", fontsize=8)
        row[0].set_ylabel("count", fontsize=8)
        row[0].set_xlim(-0.5, size - 0.5)
        ordered = np.sort(book)[::-1]
        row[1].plot(np.arange(1, used + 1), ordered[:used])
        row[1].set_xlim(0, size)
        if used:
            row[1].set_yscale("log")
        row[1].set_title("sorted", fontsize=9)
        row[1].set_xlabel("rank", fontsize=8)
        for axis in row:
            axis.tick_params(labelsize=8)
    return _save(figure, path)


def plot_maps(path: str | os.PathLike, maps: Mapping[str, Any], *, title: str | None = None) -> Path:
    """Draw maps of numbers side by side, with a scale of colours each.

    Args:
        path: the PNG to write; its folder is made.
        maps: title -> (H, W) numbers.
        title: written above the figure.

    Returns:
        The path written.

    Raises:
        ValueError: for no maps, or one of another shape.
    """
    arrays = {name: _array(values) for name, values in maps.items()}
    if not arrays or any(array.ndim != 2 for array in arrays.values()):
        raise ValueError(f"plot_maps: needs maps (H, W); got {[array.shape for array in arrays.values()]}")
    figure = _figure(3.6 * len(arrays), 3.4)
    axes = figure.subplots(1, len(arrays), squeeze=False)[0]
    for axis, (name, array) in zip(axes, arrays.items(), strict=True):
        drawn = axis.imshow(array, interpolation="nearest")
        figure.colorbar(drawn, ax=axis, shrink=0.8).ax.tick_params(labelsize=8)
        axis.set_title(f"{name}: {array.min():.1f} to {array.max():.1f}", fontsize=9)
        axis.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def plot_curves(
    path: str | os.PathLike,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str | None = None,
    xlabel: str = "step",
    ylabel: str | None = None,
    log_y: bool | Iterable[str] = False,
    panels: bool | Mapping[str, Sequence[str]] = False,
) -> Path:
    """Draw named curves over steps, in one axis or each in a panel of its own.

    Args:
        path: the PNG to write; its folder is made.
        curves: name -> (steps, values), two sequences of one length; non-finite values leave a gap.
        title: written above the figure.
        xlabel: the shared horizontal axis.
        ylabel: the vertical axis, when all curves share one.
        log_y: a logarithmic vertical axis: for all, or with ``panels`` for the panels named.
        panels: a panel a curve, for quantities of different scale over the same steps (entropy and sigma squared); or
            which curves go into which, ``{panel: [curve, ...]}``.

    Returns:
        The path written.

    Raises:
        ValueError: for no curves, or one whose steps and values differ in number.
    """
    if not curves:
        raise ValueError("plot_curves: no curves given")
    groups: Mapping[str, Sequence[str]] = {ylabel or "": list(curves)}
    if panels:
        groups = panels if isinstance(panels, Mapping) else {name: [name] for name in curves}
    return plot_panels(
        path,
        {panel: {name: curves[name] for name in names} for panel, names in groups.items()},
        title=title,
        xlabel=xlabel,
        log_y=log_y,
    )


def plot_panels(
    path: str | os.PathLike,
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    title: str | None = None,
    xlabel: str = "step",
    log_y: bool | Iterable[str] = False,
) -> Path:
    """Draw curves in panels one above the other: several runs, say, in a panel a quantity.

    Args:
        path: the PNG to write; its folder is made.
        panels: vertical axis -> name -> (steps, values), two sequences of one length; non-finite values leave a gap.
            A name has the same colour in every panel.
        title: written above the figure.
        xlabel: the shared horizontal axis.
        log_y: a logarithmic vertical axis: for all panels, or for those named.

    Returns:
        The path written.

    Raises:
        ValueError: for no curves, or one whose steps and values differ in number.
    """
    if not panels or not all(panels.values()):
        raise ValueError("plot_panels: no curves given")
    logarithmic = set(panels) if log_y is True else set(log_y or ())
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    figure = _figure(8.0, 0.6 + 2.2 * len(panels) if len(panels) > 1 else 4.5)
    axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for axis, (label, curves) in zip(axes, panels.items(), strict=True):
        for name, points in curves.items():
            steps, values = (_array(part).ravel() for part in points)
            if len(steps) != len(values):
                raise ValueError(f"plot_panels: {name!r} has {len(steps)} steps and {len(values)} values")
            marker = "." if len(steps) < 30 else None
            axis.plot(steps, values, label=name, linewidth=1.2, marker=marker, color=f"C{names.index(name) % 10}")
            # a logarithmic axis of values that are not positive would be empty
            if label in logarithmic and np.any(values > 0):
                axis.set_yscale("log")
        axis.set_ylabel(label, fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    if any(list(curves) != [label] for label, curves in panels.items()):
        axes[0].legend(fontsize=8)
    axes[-1].set_xlabel(xlabel, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def plot_confusion(
    path: str | os.PathLike,
    matrix: Any,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    title: str | None = None,
    xlabel: str = "unit",
    ylabel: str = "phone",
) -> Path:
    """Draw shares of each column, or of anything else from 0 to 1, as a picture with named rows.

    Args:
        path: the PNG to write; its folder is made.
        matrix: (R, C), drawn with row 0 at the top; the colour scale ends at its largest value.
        rows: R names.
        columns: C names; without them the axis counts.
        title: written above.
        xlabel: what columns are.
        ylabel: what rows are.

    Returns:
        The path written.

    Raises:
        ValueError: a matrix without values, or names that do not fit it.
    """
    values = _array(matrix)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"plot_confusion: a matrix of shape {values.shape}; (rows, columns) is legal")
    if len(rows) != values.shape[0] or (columns is not None and len(columns) != values.shape[1]):
        raise ValueError(f"plot_confusion: {values.shape} values for {len(rows)} rows and {columns and len(columns)}")
    figure = _figure(min(20.0, max(6.0, 2.0 + 0.03 * values.shape[1])), min(24.0, max(3.0, 1.0 + 0.14 * len(rows))))
    axis = figure.subplots()
    image = axis.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0.0)
    axis.set_yticks(range(len(rows)), rows, fontsize=6)
    if columns is not None:
        axis.set_xticks(range(len(columns)), columns, fontsize=6, rotation=90)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel(xlabel, fontsize=8)
    axis.set_ylabel(ylabel, fontsize=8)
    if title:
        axis.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01)
    return _save(figure, path)


def plot_map(
    path: str | os.PathLike,
    positions: Any,
    *,
    labels: Sequence[str] | None = None,
    sizes: Any = None,
    others: Any = None,
    title: str | None = None,
) -> Path:
    """Draw points of a plane, coloured by label, with the label at each point.

    Args:
        path: the PNG to write; its folder is made.
        positions: (M, 2); both axes are drawn to one scale.
        labels: M names; equal ones share a colour.
        sizes: (M,) non-negative, areas of the points.
        others: (L, 2) further points, drawn as grey crosses.
        title: written above.

    Returns:
        The path written.

    Raises:
        ValueError: positions that are not (M, 2), or other numbers of labels or sizes.
    """
    points = _array(positions).astype(np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"plot_map: positions of shape {points.shape}; (M, 2) is legal")
    for name, given in (("labels", labels), ("sizes", sizes)):
        if given is not None and len(given) != len(points):
            raise ValueError(f"plot_map: {len(given)} {name} for {len(points)} positions")
    areas = np.full(len(points), 40.0)
    if sizes is not None and len(points):
        weights = _array(sizes).astype(np.float64)
        areas = 8.0 + 160.0 * weights / np.maximum(np.max(weights), 1e-12)
    names = list(labels) if labels is not None else [""] * len(points)
    kinds = {name: number for number, name in enumerate(dict.fromkeys(sorted(names)))}
    figure = _figure(9.0, 7.5)
    axis = figure.subplots()
    if others is not None and len(crosses := _array(others)):
        axis.scatter(crosses[:, 0], crosses[:, 1], marker="x", s=14, color="0.7", linewidths=0.8)
    shades = [kinds[name] / max(len(kinds) - 1, 1) for name in names]
    axis.scatter(points[:, 0], points[:, 1], s=areas, c=shades, cmap="gist_rainbow", alpha=0.55, linewidths=0)
    for (x, y), name in zip(points, names, strict=True):
        axis.text(x, y, name, fontsize=6, ha="center", va="center")
    axis.set_aspect("equal", adjustable="datalim")
    axis.tick_params(labelsize=7)
    if title:
        axis.set_title(title, fontsize=9)
    return _save(figure, path)


def plot_bars(
    path: str | os.PathLike, edges: Any, counts: Any, *, xlabel: str, ylabel: str, title: str | None = None
) -> Path:
    """Draw a histogram that was counted before.

    Args:
        path: the PNG to write; its folder is made.
        edges: (B + 1,) rising.
        counts: (B,).
        xlabel: what is counted.
        ylabel: of what.
        title: written above.

    Returns:
        The path written.

    Raises:
        ValueError: numbers of edges and counts that do not belong together.
    """
    borders, heights = _array(edges).ravel(), _array(counts).ravel()
    if len(borders) != len(heights) + 1 or not len(heights):
        raise ValueError(f"plot_bars: {len(borders)} edges for {len(heights)} counts; one more is legal")
    figure = _figure(7.0, 3.6)
    axis = figure.subplots()
    axis.stairs(heights, borders, fill=True)
    axis.set_xlabel(xlabel, fontsize=8)
    axis.set_ylabel(ylabel, fontsize=8)
    axis.tick_params(labelsize=8)
    if title:
        axis.set_title(title, fontsize=9)
    return _save(figure, path)


def _array(values: Any) -> np.ndarray[Any, Any]:
    """A numpy array of an array, a sequence or a tensor on any device (this module does not import torch)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _perplexity(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format=path.suffix.lstrip(".") or "png")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
