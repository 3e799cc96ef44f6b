"""A server of files on this machine whose faults the tests choose, and archives."""

import contextlib
import hashlib
import http.server
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator

BYTES = bytes(hashlib.sha256(str(n).encode()).digest()[0] for n in range(100_000))
SHA256 = hashlib.sha256(BYTES).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; what it does wrong is set by the tests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"x.bin": BYTES}
        self.ranges = True  # whether it can send parts
        self.etag = '"one"'
        self.cut: list[int] = []  # bytes after which the connections to come are closed
        self.status: list[int] = []  # answers to the requests to come
        self.chunked = False  # does not say how long it is
        self.delay = 0.0  # s before every 1000 bytes
        self.asked: list[str | None] = []  # the Range of every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        data = server.files.get(self.path.lstrip("/"))
        if server.status:
            return self.send_error(server.status.pop(0))
        if data is None:
            return self.send_error(404)
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        body = data[start:]
        sent = body[: server.cut.pop(0)] if server.cut else body
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
            if len(sent) == len(body):
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for at in range(0, len(sent), 1000):
                time.sleep(server.delay)
                self.wfile.write(sent[at : at + 1000])
        self.close_connection = True
        return None


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def stay_here(monkeypatch) -> None:
    """No proxy: what is asked of 127.0.0.1 is asked there."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "*")


def tar_bytes(files: dict[str, bytes], mode: str = "w:gz", **attributes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zip_bytes(files: dict[str, bytes], mode: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content)
    return out.getvalue()
