"""Where corpora are published, and fetching them once: addresses, checksums, licences."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqvae_speech.data.download import Archive, fetch
from sqvae_speech.data.files import write_text
from sqvae_speech.data.unpack import unfinished, unpack
from sqvae_speech.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a corpus is published.

    Attributes:
        page: the web page about it.
        licence: its licence, in words.
        archives: part of the corpus -> its archive; a corpus that is one archive has one part, ``""``.
        there: part -> folders of which one, below the download folder, shows that the corpus is there.
        top: name of the folder that is in the archives: given as the download folder, the one above it is meant.
        by_hand: part -> why it cannot be fetched and what to do, for parts that are not public.
    """

    page: str
    licence: str
    archives: Mapping[str, Archive]
    there: Mapping[str, Sequence[str]]
    top: str = ""
    by_hand: Mapping[str, str] = field(default_factory=dict)


def download_corpus(
    name: str,
    folder: str | Path,
    parts: Sequence[str] = (),
    *,
    sources: Mapping[str, Source],
    progress: bool = True,
) -> None:
    """Fetch a corpus (or parts of it) into ``folder`` and unpack it there, unless that is done.

    The archives are kept, for they are what was checked; ``.<archive>.done`` says that one has been unpacked.

    Args:
        name: the corpus.
        folder: where archives and corpus go.
        parts: of :attr:`Source.archives`; all by default.
        sources: of all corpora.
        progress: show progress bars.

    Raises:
        UserError: the corpus, or a part of it, has no public address; what :func:`fetch` and :func:`unpack` raise.
    """
    if name not in sources:
        public = ", ".join(name for name, source in sources.items() if source.archives)
        raise UserError(f"--download: {name} has no public address. Corpora that can be fetched: {public}")
    source, folder = sources[name], Path(folder).expanduser().absolute()
    if folder.is_file():
        raise UserError(f"--download: {folder} is a file; --corpus takes the folder to download to")
    if folder.name == source.top:
        folder = folder.parent
    for part in parts or source.archives or source.by_hand:
        if any((folder / path).exists() for path in source.there.get(part, ())) and not _halfway(
            source, part, folder
        ):
            logger.info("%s: there already, nothing to fetch", f"{folder} ({part})" if part else folder)
            continue
        if part in source.by_hand:
            what = f"{name} {part}".strip()
            raise UserError(f"--download: {what} cannot be fetched: {source.by_hand[part]} (into {folder})")
        if part not in source.archives:
            raise UserError(f"--download: {name} has no part {part!r}; there are {', '.join(source.archives)}")
        archive = source.archives[part]
        logger.info("%s; licence: %s; %s", archive.url, source.licence, source.page)
        into = folder / archive.into
        path = fetch(archive, into if archive.is_file else folder, page=source.page, progress=progress)
        if archive.is_file:
            continue
        unpack(path, into, progress=progress)
        write_text(_done(archive, folder), f"{archive.url}\n{archive.sha256 or 'no checksum is published'}\n")
        logger.info("%s is unpacked in %s; it may be removed", path, into)


def _done(archive: Archive, folder: Path) -> Path:
    return folder / f".{archive.name}.done"


def _halfway(source: Source, part: str, folder: Path) -> bool:
    """Whether the unpacking of a part was interrupted while it was being moved to its place."""
    archive = source.archives.get(part)
    if archive is None or _done(archive, folder).exists():
        return False
    return unfinished(folder / archive.name, folder / archive.into).exists()
