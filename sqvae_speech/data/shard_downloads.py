"""A folder of fetched files: each whole and checked, fetched once per machine, within a number of bytes.

Processes agree through the folder itself. A file is fetched under a lock on its ``.part``; what a process has in use
is written into a lease, a file that it holds locked as long as it lives; files are deleted under one lock, the least
recently used first and none that is in a living process' lease.
"""

import collections
import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import socket
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sqvae_speech.errors import UserError

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
_PREFETCH_THREADS = 2


class RemoteFile(NamedTuple):
    """A file to have: where, from which address (of ``gopen``), and its size in bytes and SHA-256."""

    path: Path
    address: str
    bytes: int
    sha256: str


def fetch_file(
    address: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    check: Callable[[bytes], bool] | None = None,
    needed: Callable[[], bool] | None = None,
) -> None:
    """Fetch a file, whole or not at all; others that want the same wait and take this one's.

    What is not as it has to be is fetched a second time.

    Args:
        address: what webdataset's ``gopen`` takes.
        path: where it goes.
        size: its bytes, when they are known; then a file of that size that is there is taken as it is.
        sha256: its checksum, when it is known.
        check: whether the contents are right, for small files.
        needed: whether it is still to be fetched, asked when nobody else is at it.

    Raises:
        UserError: it cannot be read, or is not what it has to be.
    """
    try:
        with _part(path) as file:
            if (size is not None and _has_size(path, size)) or (needed is not None and not needed()):
                return
            problem = _receive(address, file, size, sha256, check)
            if problem:
                logger.info("%s: %s; fetching it again", address, problem)
                problem = _receive(address, file, size, sha256, check)
            if problem:
                os.unlink(file.name)
                raise UserError(
                    f"{address}: {problem}; are the shards there whole, and of this index.json? "
                    "`sqvae-speech data validate` where they were made says so"
                )
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); make room, or give another folder for downloads "
            "(data.download_dir)"
        ) from None


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _part(path: Path) -> Iterator[BinaryIO]:
    """Open ``.<name>.part`` and hold it locked. What a killed process has left of it is overwritten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:  # whoever had it locked before may have renamed or deleted it
                same = os.path.samestat(os.fstat(file.fileno()), part.stat())
            except FileNotFoundError:
                same = False
            if same:
                try:
                    yield file
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                            part.unlink()
                return


def _receive(
    address: str, file: BinaryIO, size: int | None, sha256: str | None, check: Callable[[bytes], bool] | None
) -> str | None:
    """Write what is at ``address`` into ``file``; return what is wrong with it, or None.

    Raises:
        UserError: it cannot be read.
    """
    from webdataset.gopen import gopen

    file.seek(0)
    file.truncate()
    digest, received, contents = hashlib.sha256(), 0, b""
    try:
        with gopen(address) as stream:
            while block := stream.read(_BLOCK):
                file.write(block)
                digest.update(block)
                received += len(block)
                if check is not None:
                    contents += block
                if size is not None and received > size:
                    break
    except OSError as error:
        if error.errno is not None:  # ours: the disk is full, ...
            raise
        if size is not None and received > size:  # the command failed because we had heard enough
            return f"it has more than {size} bytes, index.json says {size}"
        raise UserError(
            f"{address} cannot be read ({_status(error)}); is the address right, and is it reachable from here?"
        ) from None
    if size is not None and received != size:
        more = "more than " if received > size else ""
        return f"it has {more}{min(received, size)} bytes, index.json says {size}"
    if sha256 is not None and digest.hexdigest() != sha256:
        return f"its SHA-256 is {digest.hexdigest()}, index.json says {sha256}"
    if check is not None and not check(contents):
        return "it is not what it should be"
    return None


def _status(error: OSError) -> str:
    """``exit 22`` of the long text of gopen's error."""
    text = str(error)
    start = text.rfind("exit ")
    return "the command failed, " + " ".join(text[start:].split()[:2]) if start >= 0 else text


class DownloadFolder:
    """Fetched shards, of any number of corpora, in sub-folders of one folder.

    Args:
        root: the folder; made when it is not there.
        limit: bytes of all shards in it, at most.

    Raises:
        UserError: a folder that cannot be written to, or a limit below 1.
    """

    def __init__(self, root: Path, limit: int):
        if limit < 1:
            raise UserError(f"the limit of downloads is {limit} bytes; at least 1 is needed")
        self.root = root
        self.limit = limit
        self._leased: dict[str, RemoteFile] = {}
        self._wanted: collections.deque[RemoteFile] = collections.deque()
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._warned = False
        leases = root / "leases"
        try:
            leases.mkdir(parents=True, exist_ok=True)
            name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
            with _locked(root / "lock"):  # nobody may see it before it is locked, and take it for void
                self._lease = (leases / name).open("w")
                fcntl.flock(self._lease, fcntl.LOCK_EX)  # free again when this process ends, however it does
        except OSError as error:
            raise UserError(
                f"{root} cannot be written to ({error.strerror}); give another folder for downloads "
                "(data.download_dir), or set XDG_CACHE_HOME"
            ) from None
        weakref.finalize(self, _end_lease, self._lease)

    def hold(self, files: Sequence[RemoteFile], following: Sequence[RemoteFile] = ()) -> None:
        """Say which files are in use from now on, and fetch them, and then the following ones, in the background.

        Files that no process has in use are deleted, the least recently used first, until everything fits. Of
        ``following`` as many are fetched as fit. What other processes have in use is left to them: if that leaves too
        little room, the limit is exceeded, with a warning.

        Raises:
            UserError: the files in use do not fit into the limit.
        """
        held = {self._name(file): file for file in files}
        own = {name: file.bytes for name, file in held.items()}
        if sum(own.values()) > self.limit:
            raise UserError(
                f"{self.root}: the shards in use take {sum(own.values()) / 1e9:.3f} GB, the limit is "
                f"{self.limit / 1e9:.3f} GB; raise data.download_gb, or shuffle within windows of fewer shards "
                "(data.shuffle_shards)"
            )
        with _locked(self.root / "lock"):
            theirs, theirs_ahead = self._leases_of_others()
            used = {**theirs, **own}
            if sum(used.values()) > self.limit and not self._warned:
                self._warned = True
                logger.warning(
                    "%s: the shards that processes have in use take %.3f GB, the limit is %.3f GB",
                    self.root,
                    sum(used.values()) / 1e9,
                    self.limit / 1e9,
                )
            planned = {**theirs_ahead, **used}
            if sum(planned.values()) > self.limit:  # what others fetch ahead of need they can fetch again
                planned = used
            ahead = {}
            for file in following:
                name = self._name(file)
                if sum({**planned, name: file.bytes}.values()) > self.limit:
                    break
                planned[name] = ahead[name] = file.bytes
                held[name] = file
            self._delete(keep=planned, room=self.limit - sum(planned.values()))
            for file in held.values():
                with contextlib.suppress(FileNotFoundError):
                    os.utime(file.path)
            self._lease.seek(0)
            self._lease.truncate()
            json.dump({"held": own, "ahead": ahead}, self._lease)
            self._lease.flush()
        with self._condition:
            self._leased = held
            self._wanted = collections.deque(file for file in held.values() if not _has_size(file.path, file.bytes))
            self._condition.notify_all()
            while len(self._threads) < min(_PREFETCH_THREADS, len(self._wanted)):
                thread = threading.Thread(target=_fetch_wanted, args=(weakref.ref(self),), daemon=True)
                self._threads.append(thread)
                thread.start()

    def path(self, file: RemoteFile) -> Path:
        """Return where a file lies; fetch it when it is not there, and hold it when it is not held.

        Raises:
            UserError: see :func:`fetch_file` and :meth:`hold`.
        """
        if not self._is_leased(file):
            self.hold([*self._leased.values(), file])
        if not _has_size(file.path, file.bytes):
            fetch_file(file.address, file.path, size=file.bytes, sha256=file.sha256)
        return file.path

    def _is_leased(self, file: RemoteFile) -> bool:
        return self._name(file) in self._leased

    def _name(self, file: RemoteFile) -> str:
        return file.path.relative_to(self.root).as_posix()

    def _leases_of_others(self) -> tuple[dict[str, int], dict[str, int]]:
        """What other processes have in use, and what they fetch ahead; leases of those that are gone are removed."""
        held: dict[str, int] = {}
        ahead: dict[str, int] = {}
        for path in (self.root / "leases").iterdir():
            if path.name == Path(self._lease.name).name:
                continue
            with contextlib.suppress(FileNotFoundError), path.open("r") as lease:
                try:
                    fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                except BlockingIOError:
                    values = json.loads(lease.read() or '{"held": {}, "ahead": {}}')
                    held.update(values["held"])
                    ahead.update(values["ahead"])
        return held, ahead

    def _delete(self, keep: dict[str, int], room: int) -> None:
        """Delete files until those that need not be kept, packed caches among them, take ``room`` bytes at most."""
        others = []
        for path in [*self.root.glob("*/*.tar"), *self.root.glob("*/.cache/*.frames")]:
            if path.relative_to(self.root).as_posix() not in keep:
                stat = path.stat()
                others.append((stat.st_mtime_ns, path, stat.st_size))
        excess = sum(size for *_, size in others) - room
        for _, path, size in sorted(others):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size

    def _next_wanted(self, timeout: float) -> RemoteFile | None:
        with self._condition:
            if not self._wanted:
                self._condition.wait(timeout)
            return self._wanted.popleft() if self._wanted else None


def _fetch_wanted(folder: "weakref.ref[DownloadFolder]") -> None:
    """What a background thread does, as long as the folder is in use."""
    while (target := folder()) is not None:
        file = target._next_wanted(timeout=1.0)
        if file is not None:
            needed = functools.partial(target._is_leased, file)
            try:
                fetch_file(file.address, file.path, size=file.bytes, sha256=file.sha256, needed=needed)
            except UserError as error:  # whoever needs it will try again, and raise
                logger.info("fetching ahead: %s", error)
            del needed
        del target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end_lease(lease: Any) -> None:
    with contextlib.suppress(OSError):
        os.unlink(lease.name)
    lease.close()
