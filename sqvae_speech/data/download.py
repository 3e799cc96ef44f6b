"""Fetching an archive over HTTP: gone on with where it stopped, compared with its checksum, whole or not at all.

What has arrived of ``x.zip`` is ``x.zip.part`` until all of it has, and its checksum is right. A server that cannot
send a part of a file (RFC 9110, Range requests) sends it from the beginning again.
"""

import contextlib
import errno
import hashlib
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from sqvae_speech.data.files import write_text
from sqvae_speech.errors import UserError
from sqvae_speech.version import __version__

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes read at once
TIMEOUT = 60.0  # s without a byte after which a connection counts as lost
ATTEMPTS = 5  # connections in a row that bring nothing
# Answers of a server that may be another a little later.
PASSING = {408, 429, 500, 502, 503, 504}
REASONS = {
    401: "the server asks for a login",
    403: "the server refuses it",
    404: "the server has no such file (any more)",
    410: "the server has no such file any more",
}


@dataclass(frozen=True)
class Archive:
    """A file to fetch.

    Attributes:
        url: its address, http or https.
        sha256: of its bytes, in hexadecimal, where one is published; None compares nothing.
        size: bytes, where known.
        into: folder that it is unpacked into, below the download folder; for archives without a folder of their own.
        is_file: it is read as it is, not unpacked; it goes into ``into`` itself.
    """

    url: str
    sha256: str | None = None
    size: int | None = None
    into: str = ""
    is_file: bool = False

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rsplit("/", 1)[-1]


def fetch(archive: Archive, folder: str | Path, *, page: str = "", progress: bool = True, wait: float = 2.0) -> Path:
    """Return ``folder/archive.name``, fetched unless it is there, and compared with the checksum.

    A connection that is lost is taken up again, as long as :data:`ATTEMPTS` in a row do not all bring nothing.

    Args:
        archive: what to fetch.
        folder: where to put it; made if need be.
        page: a web page about it, for the messages.
        progress: show a progress bar.
        wait: seconds before the second of the attempts, doubled for each that follows.

    Raises:
        UserError: no network, no such file, a full disk, a connection that stays lost, another process fetching the
            same file, another size or checksum than published; the message says what was kept and how to go on.
    """
    folder = Path(folder).absolute()
    target = folder / archive.name
    by_hand = f"To fetch it by hand: {archive.url}{f' (see {page})' if page else ''}, saved as {target}"
    if not archive.url.startswith(("http://", "https://")):
        raise UserError(f"{archive.url} is not an address that begins with http:// or https://")
    folder.mkdir(parents=True, exist_ok=True)
    if target.exists():
        fault = _fault(target, archive, progress)
        if fault:
            raise UserError(f"{target}, which is there already, {fault}. It was left as it is; remove it to fetch it")
        return target
    part = target.with_name(f"{target.name}.part")
    with _alone(part):
        _Transfer(archive, part, by_hand, progress, wait).run()
        fault = _fault(part, archive, progress)
        if fault:
            part.unlink()
            _validator_file(part).unlink(missing_ok=True)
            raise UserError(
                f"what {archive.url} sent {fault}. It was removed. Run this again; if the same happens, the file has "
                f"been changed or damaged where it lies. {by_hand}"
            )
        os.replace(part, target)
    _validator_file(part).unlink(missing_ok=True)
    return target


class _Lost(Exception):
    """The connection ended before the file did."""


class _Transfer:
    """Fills a ``.part`` file, over as many connections as it takes."""

    def __init__(self, archive: Archive, part: Path, by_hand: str, progress: bool, wait: float):
        self.archive, self.part, self.by_hand, self.progress, self.wait = archive, part, by_hand, progress, wait

    @property
    def have(self) -> int:
        return self.part.stat().st_size

    def run(self) -> None:
        fruitless, connected = 0, False
        with tqdm(
            total=self.archive.size,
            initial=self.have,
            desc=f"fetching {self.archive.name}",
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            disable=not self.progress,
        ) as bar:
            while self.archive.size is None or self.have != self.archive.size:
                before = self.have
                try:
                    self._receive(bar)
                    return
                except urllib.error.HTTPError as error:
                    connected = True
                    if error.code == 416:  # nothing after what we have: that is all, or it is not of this file
                        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(before) and before:
                            return
                        self._begin_again(bar)
                    elif error.code not in PASSING:
                        reason = REASONS.get(error.code, error.reason)
                        raise UserError(
                            f"{self.archive.url}: {reason} (HTTP status {error.code}). {self.by_hand}"
                        ) from None
                    what = f"HTTP status {error.code}"
                except (_Lost, OSError, http.client.HTTPException) as error:
                    self._refuse_full_disk(error)
                    # a name that cannot be resolved, a network that is not there: waiting does not help
                    if isinstance(error, urllib.error.URLError) and not connected and self.have == before:
                        raise UserError(
                            f"{self.archive.url} cannot be reached ({error.reason}). {self._kept()}Is there a "
                            f"network (and is https_proxy set, where one is needed)? {self.by_hand}"
                        ) from None
                    connected, what = True, str(error) or type(error).__name__
                fruitless = 0 if self.have > before else fruitless + 1
                if fruitless == ATTEMPTS:
                    raise UserError(
                        f"{self.archive.url}: {ATTEMPTS} attempts in a row brought nothing, the last one: {what}. "
                        f"{self._kept()}{self.by_hand}"
                    )
                logger.info("%s: %s; trying again", self.archive.name, what)
                time.sleep(self.wait * 2**fruitless if fruitless else 0.0)

    def _receive(self, bar: tqdm) -> None:
        """Make one request, and write what it brings."""
        have = self.have
        headers = {"User-Agent": f"sqvae-speech/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            validator = _validator_file(self.part)
            if validator.is_file():  # a file that has been changed since then is sent from its beginning
                headers["If-Range"] = validator.read_text()
        request = urllib.request.Request(self.archive.url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            total = _whole_size(response, have)
            if have and total is None and response.status != 206:
                logger.info("%s: the server sends it from the beginning again", self.archive.name)
            if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                if response.status == 206:
                    raise _Lost(f"asked for bytes from {have}, got {response.headers.get('Content-Range')}")
                have = 0
            if None not in (total, self.archive.size) and total != self.archive.size:
                raise UserError(
                    f"{self.archive.url} has {total} bytes, the published file {self.archive.size}: it is another "
                    f"file. {self._kept()}{self.by_hand}"
                )
            _require_space(self.part.parent, (total or 0) - have, self.archive.name)
            _keep_validator(self.part, response)
            bar.total = bar.total or total
            with self.part.open("r+b") as file:
                file.truncate(have)
                file.seek(have)
                bar.n = have
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    bar.update(len(chunk))
            if total is not None and have < total:
                raise _Lost(f"the connection ended after {have} of {total} bytes")

    def _begin_again(self, bar: tqdm) -> None:
        with self.part.open("r+b") as file:
            file.truncate(0)
        _validator_file(self.part).unlink(missing_ok=True)
        bar.n = 0

    def _kept(self) -> str:
        if not self.have:
            return ""
        return f"{self.have} bytes are kept in {self.part}; run this again to go on from there. "

    def _refuse_full_disk(self, error: Exception) -> None:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{self.part}: {cause.strerror}. {self._kept()}Make room first") from None


def _whole_size(response: http.client.HTTPResponse, have: int) -> int | None:
    """Return the size of the whole file, None where the server does not say."""
    if response.status == 206:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        size = response.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _keep_validator(part: Path, response: http.client.HTTPResponse) -> None:
    """Remember which version of the file this is, so that a part of another one is never put behind it."""
    etag = response.headers.get("ETag", "")
    version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    if version:
        write_text(_validator_file(part), version)
    else:
        _validator_file(part).unlink(missing_ok=True)


def _fault(path: Path, archive: Archive, progress: bool) -> str:
    """Return how a file differs from the published one, or an empty string."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"has {size} bytes, the published file {archive.size}"
    if archive.sha256 is None:
        logger.info("%s: no checksum is published, it is not compared with one", archive.name)
        return ""
    digest = hashlib.sha256()
    with (
        path.open("rb") as file,
        tqdm(
            total=size,
            desc=f"checking {archive.name}",
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            disable=not progress,
        ) as bar,
    ):
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != archive.sha256:
        return f"has another checksum than the published file (SHA-256 {digest.hexdigest()}, not {archive.sha256})"
    return ""


def _require_space(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, {name} needs {needed / 1e9:.1f} GB more (and room to be "
            "unpacked); make room or choose another folder (--corpus)"
        )


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Make the part's file if need be, and hold it against other processes."""
    with part.open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on this system
            pass
        except BlockingIOError:
            _busy(part)
        try:
            yield
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()


def _busy(part: Path) -> NoReturn:
    raise UserError(f"another process is writing {part}; wait for it, or end it")
