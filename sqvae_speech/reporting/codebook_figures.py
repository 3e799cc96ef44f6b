"""What ``sqvae-speech evaluate codebook`` found, as charts and a table."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from sqvae_speech.reporting.charts import Figure, MapPoint, Series, heat_map, histogram, line_chart, point_map
from sqvae_speech.reporting.drawing import short
from sqvae_speech.reporting.embed import shares_uri, sound_file_uri
from sqvae_speech.reporting.tables import Row, Table

_TABLE_CODES = 16  # of the table of neighbours
_SOUNDS = 12
_MAP_POINTS = 2000  # a large codebook would make a large page, on which nothing can be told apart


def codebook_figures(codebook: dict[str, Any]) -> list[Figure]:
    """Frequency curve, posterior entropies, map of the codes, and phones of every code.

    Args:
        codebook: of ``codebook.json``.
    """
    codes = codebook["codes"]
    counts = sorted((code["count"] for code in codes), reverse=True)
    total, used = sum(counts), sum(count > 0 for count in counts)
    figures = [_map(codebook)]
    shares = [100 * count / max(total, 1) for count in counts[:used]]
    frequency = line_chart(
        "How often codes are used",
        [Series("share", range(1, used + 1), shares, area=True)],
        xlabel="codes, the most frequent first",
        log_y=True,
        late=False,
        note=f"In % of all {total:,} units. {used} of {len(counts)} codes are used, {len(counts) - used} never.",
    )
    if frequency:
        figures.append(frequency)
    if heights := codebook.get("entropy_histogram"):
        edges = np.linspace(0.0, math.log(len(codes)), len(heights) + 1).tolist()
        scale = ", ".join(
            f"{_SCALES.get(name, name)} {value:.3g}" for name, value in codebook.get("scale", {}).items()
        )
        figures.append(
            histogram(
                "Entropy of the posterior q(k | z)",
                edges,
                heights,
                xlabel=f"nats; a uniform choice would have {edges[-1]:.2f}",
                note=f"0 is a certain choice. On this set: {scale}." if scale else "0 is a certain choice.",
            )
        )
    if confusion := _confusion(codes):
        figures.append(confusion)
    return figures


_SCALES = {"variance": "σ²", "relative_variance": "σ² over the codes' own variance", "kappa": "κ"}


def neighbour_table(codebook: dict[str, Any]) -> Table:
    """The codes used most: how often, for which phones, how surely, and what lies near them."""
    codes = codebook["codes"]
    total = max(sum(code["count"] for code in codes), 1)
    most = sorted((code for code in codes if code["count"]), key=lambda code: -code["count"])[:_TABLE_CODES]
    rows = []
    for code in most:
        spoken = sum(code["phones"].values())
        phones = ", ".join(f"{phone} {count / spoken:.0%}" for phone, count in list(code["phones"].items())[:3])
        near = ", ".join(
            f"{other}{f' ({_dominant(codes[other])})' if codes[other]['phones'] else ''}"
            for other in code["neighbours"][:4]
        )
        entropy = code["posterior_entropy"]
        cells = (f"{code['count'] / total:.2%}", "" if entropy is None else f"{entropy:.2f}", phones, near)
        rows.append(Row(str(code["code"]), cells))
    header = ("share", "entropy (nats)", "phones", "nearest codes")
    return Table("The codes used most", "code", header, tuple(rows), "In brackets: the most frequent phone.")


def code_sounds(folder: Path, codebook: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and ``data:`` addresses of the recordings of codes that lie in the folder of the codebook report."""
    codes = {code["code"]: code for code in codebook["codes"]}
    found = []
    for path in sorted((folder / "wav").glob("code-*.wav"), key=lambda path: -_count(codes, path)):
        number = path.stem.removeprefix("code-")
        uri = sound_file_uri(path)
        if uri is not None and number.isdigit() and int(number) in codes:
            phone = _dominant(codes[int(number)])
            found.append((f"{number}{f' · {phone}' if phone else ''}", uri))
    return found[:_SOUNDS]


def _count(codes: dict[int, dict[str, Any]], path: Path) -> int:
    number = path.stem.removeprefix("code-")
    return codes.get(int(number), {}).get("count", 0) if number.isdigit() else 0


def _map(codebook: dict[str, Any]) -> Figure:
    everything = sorted(codebook["codes"], key=lambda code: -code["count"])
    used = [code for code in everything if code["count"]]
    dead = everything[len(used) :]
    points = [
        MapPoint(
            code["position"][0],
            code["position"][1],
            weight=code["count"],
            label=_dominant(code),
            tooltip=f"code {code['code']}: {short(code['count'])} uses"
            + "".join(f", {phone} {count}" for phone, count in list(code["phones"].items())[:4]),
        )
        for code in used[:_MAP_POINTS]
    ]
    others = [(code["position"][0], code["position"][1]) for code in dead[:_MAP_POINTS]]
    labelled = any(point.label for point in points)
    note = (
        f"The plane through which codes vary most ({codebook['explained']:.0%} of their variance). Areas: uses; "
        + ("colour and letter: the most frequent phone; " if labelled else "")
        + "crosses: codes that are never used."
    )
    if max(len(used), len(dead)) > _MAP_POINTS:
        note += f" Of each, {_MAP_POINTS:,} are drawn."
    return point_map("Map of the codebook", points, others, note)


def _confusion(codes: list[dict[str, Any]]) -> Figure | None:
    """Share of each phone at the uses of each code, codes ordered by their most frequent phone."""
    labelled = [code for code in codes if code["phones"]]
    if not labelled:
        return None
    totals: dict[str, int] = {}
    for code in labelled:
        for phone, count in code["phones"].items():
            totals[phone] = totals.get(phone, 0) + count
    phones = sorted(totals, key=lambda phone: -totals[phone])
    rows = {phone: number for number, phone in enumerate(phones)}
    labelled.sort(key=lambda code: (rows[_dominant(code)], -code["count"]))
    shares = np.zeros((len(phones), len(labelled)))
    for column, code in enumerate(labelled):
        for phone, count in code["phones"].items():
            shares[rows[phone], column] = count / sum(code["phones"].values())
    return heat_map(
        "Units and phones",
        shares_uri(shares),
        phones,
        f"{len(labelled)} codes, by their most frequent phone",
        "phone",
        "Each column is a code: the darker a cell, the more of its uses fall to the phone. A dark staircase would be "
        "units that are phones. Phones from the most to the least frequent.",
    )


def _dominant(code: dict[str, Any]) -> str:
    return next(iter(code["phones"]), "")
