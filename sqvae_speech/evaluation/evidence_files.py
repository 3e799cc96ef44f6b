"""Evidence as files: JSON, a Markdown table, and the phones of every unit as a picture."""

import os
from pathlib import Path

from sqvae_speech.evaluation.evidence import Evidence
from sqvae_speech.evaluation.evidence_report import markdown
from sqvae_speech.evaluation.report_files import write_report
from sqvae_speech.evaluation.unit_phone import by_dominant_phone
from sqvae_speech.plots import plot_confusion


def write_evidence(path: str | os.PathLike, evidence: Evidence, plots: str | os.PathLike | None = None) -> list[Path]:
    """Write ``path`` (JSON), the same name with ``.md``, and with ``plots`` what can be drawn; returns the files."""
    path = Path(path)
    files = write_report(path, evidence.values, markdown([evidence.values]))
    if plots is not None and (joint := evidence.joint) is not None:
        order, _ = by_dominant_phone(joint)
        shares = joint.counts / joint.counts.sum(axis=0)
        pnmi = evidence.values["units"]["unit_phone"]["pnmi"]
        title = f"{evidence.values['name']}: phones at each unit, PNMI {pnmi:.3f}"
        picture = Path(plots) / f"{path.stem}_unit_phone.png"
        xlabel = "units that occur, by their most frequent phone"
        files.append(plot_confusion(picture, shares[:, order], joint.phones, title=title, xlabel=xlabel))
    return files
