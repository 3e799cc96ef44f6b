"""Recordings that are known to be bad, each with what is wrong and who says so.

Only what was found documented is here. For LibriSpeech, LJ Speech, FSDD and ZeroSpeech 2019 no such list was found.
"""

from collections.abc import Mapping
from typing import NamedTuple


class KnownBad(NamedTuple):
    """What is wrong with a recording, and the source of that."""

    reason: str
    source: str

    def __str__(self) -> str:
        return f"known bad: {self.reason} ({self.source})"


# update.txt of VCTK 0.92, of 22 March 2017: files "with faults", deleted since then. Older copies, 0.80 among them,
# still have them.
_UPDATE = "VCTK's update note of 22 March 2017"
_SILENT = (
    *("p295-047", "p295-334", "p302-013", "p303-303", "p305-423", "p306-114", "p306-140", "p306-235"),
    *("p317-424", "p330-424", "p335-424", "p345-387"),
)
VCTK: Mapping[str, KnownBad] = {
    "p282-019": KnownBad("misspoken, and the speaker moans about it", _UPDATE),
    "p345-266": KnownBad("cut off", _UPDATE),
    "p345-388": KnownBad("cut off, begins too late", _UPDATE),
    **{name: KnownBad("silent", _UPDATE) for name in _SILENT},
}

# What VCTK's speakers lack, for the reasons in left_out.txt. README of 0.92: "two speakers, p280 and p315 had
# technical issues of the audio recordings using MKH 800", which is mic2; torchaudio's issue 483 and its VCTK_092
# class: no texts of p315, in 0.80 (172 recordings) and 0.92.
VCTK_WITHOUT_MIC2 = frozenset({"p280", "p315"})
VCTK_WITHOUT_TEXT = frozenset({"p315"})
