"""The server of one job: it gives one page what it needs, and carries frames to and from it.

It listens on the loopback only. Every address begins with a token that nobody else knows; a
request that names another host (DNS rebinding) or comes from another site is refused; what is
served is our own page, the runtimes' scripts and WebAssembly, and the one file that the job
opens. Nothing polls while something is measured: the page waits in a request for its next frame,
and holds one more connection, whose end tells that it is gone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
import shutil
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from torchopt2edge.devices.web import answers
from torchopt2edge.devices.web.mailbox import Desk

HOST = "127.0.0.1"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}
_PAGE = "index.html"
_SCRIPTS = ("frames.mjs", "litert.mjs", "ort.mjs", "page.mjs", "runner.mjs")
_WAIT_S = 25.0  # below what a proxy between a phone and us would cut
_PATIENCE_S = 60.0
_INLINE = re.compile(rb'<script type="importmap">(.*?)</script>', re.DOTALL)


def own(name: str) -> bytes:
    """Return one of the page's own files."""
    return (resources.files("torchopt2edge.devices.web") / name).read_bytes()


def policy(page: bytes) -> str:
    """Return the page's Content-Security-Policy: its own scripts and WebAssembly, nothing else."""
    found = _INLINE.search(page)
    digest = base64.b64encode(hashlib.sha256(found[1] if found else b"").digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' 'sha256-{digest}'; "
        "worker-src 'self' blob:; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


class PageServer(socketserver.ThreadingTCPServer):
    """Serves one page until it is closed; one thread accepts, each connection has its own.

    ``packages`` is the folder that holds ``node_modules``. What the page and the job have for
    each other lies on ``desk``.
    """

    daemon_threads = False  # `close` ends every connection, and waits for its thread

    def __init__(self, packages: Path) -> None:
        super().__init__((HOST, 0), _Handler)
        self.desk = Desk()
        self.modules = (packages / "node_modules").resolve()
        self.page = own(_PAGE)
        self.policy = policy(self.page)
        self.port = int(self.server_address[1])
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="t2e-page", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The page's address, secret token included."""
        return f"http://{HOST}:{self.port}/{self.desk.token}/"

    def close(self) -> None:
        """End every connection and every thread; harmless when called again."""
        if self._closed:
            return
        self._closed = True
        self.desk.close()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        with self._lock:
            left = [*self._open]
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, unless there are too many."""
        with self._lock:
            self._open.add(request)
            many = len(self._open) > answers.MOST_CONNECTIONS
        if many:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the page's business; any other failure ends the job."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.desk.leave(f"the server failed: {error!r}")

    def _accept(self) -> None:
        while not self._closed:
            self.handle_request()  # blocks until somebody calls: it does not look twice a second


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PageServer
    server_version = "torchopt2edge"
    sys_version = ""
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        """Give the page a file, a frame or its life line."""
        place = self._place()
        if place is None:
            return
        if place == "alive":
            self._hold()
        elif place == "command":
            self._command()
        elif place == "":
            self._give(self.server.page, _PAGE)
        elif place in _SCRIPTS:
            self._give(own(place), place)
        elif place == "candidate":
            self._file(self.server.desk.candidate)
        else:
            self._file(self._module(place))

    def do_POST(self) -> None:
        """Take the page's answer, or a line for the log."""
        place = self._place()
        most = {"answer": answers.LARGEST_ANSWER, "log": answers.LONGEST_NOTE}.get(place or "")
        if place is None:
            return
        length = answers.length(self.headers.get("Content-Length"), most or 0)
        if most is None or length is None:
            self._refuse(HTTPStatus.NOT_FOUND if most is None else HTTPStatus.BAD_REQUEST)
            return
        if self._answer(length) if place == "answer" else self._note(length):
            self._head(HTTPStatus.NO_CONTENT)

    def _answer(self, length: int) -> bool:
        """Take the answer that is waited for; what is sent again is read past."""
        desk, number = self.server.desk, self._number()
        with desk.receiving:
            if desk.expects(number):
                body = self.rfile.read(length)
                if len(body) == length:
                    desk.answer(number, body)
                return len(body) == length
        while length > 0 and (got := self.rfile.read(min(length, 1 << 16))):
            length -= len(got)
        return not length

    def _note(self, length: int) -> bool:
        body = self.rfile.read(length)
        if len(body) == length:
            self.server.desk.note(body.decode(errors="replace"))
        return len(body) == length

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the job's log is the page's."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request without repeating any of it."""
        self._refuse(HTTPStatus(code))

    def _place(self) -> str | None:
        """Return what is asked for below the token; None when the request is refused already."""
        token, _, place = urlsplit(self.path).path.removeprefix("/").partition("/")
        hosts = (f"{HOST}:{self.server.port}", f"localhost:{self.server.port}")
        if self.headers.get("Host") not in hosts:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        strange = self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        if (strange and place) or not hmac.compare_digest(
            token.encode(errors="replace"), self.server.desk.token.encode()
        ):
            self._refuse(HTTPStatus.NOT_FOUND)
            return None
        return place

    def _module(self, place: str) -> Path | None:
        """Return the file of a package; None where it is not inside of the packages."""
        kind, _, inside = unquote(place).partition("/")
        if kind != "node_modules" or "\0" in inside:
            return None
        file = (self.server.modules / inside).resolve()
        within = file.is_relative_to(self.server.modules) and file.suffix in _TYPES
        return file if within else None

    def _file(self, file: Path | None) -> None:
        try:
            body = None if file is None else file.open("rb")
        except OSError:
            body = None
        if file is None or body is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with body:
            size = body.seek(0, 2)
            body.seek(0)
            self._head(HTTPStatus.OK, file.suffix, size)
            shutil.copyfileobj(body, self.wfile)

    def _give(self, body: bytes, name: str) -> None:
        self._head(HTTPStatus.OK, Path(name).suffix, len(body))
        self.wfile.write(body)

    def _number(self) -> int:
        """Return which frame is meant."""
        return answers.number(urlsplit(self.path).query)

    def _command(self) -> None:
        frame = self.server.desk.next_command(self._number(), _WAIT_S)
        if frame is None:
            over = self.server.desk.over
            self._head(HTTPStatus.GONE if over else HTTPStatus.NO_CONTENT)
        else:
            self._give(frame, "")

    def _hold(self) -> None:
        """Hold the life line: it ends when the page's process does, or when the job is closed."""
        self._head(HTTPStatus.OK, "", None)
        self.wfile.write(b"\n")
        self.server.desk.arrive()
        self.connection.settimeout(None)
        with contextlib.suppress(OSError):
            self.connection.recv(1)
        self.server.desk.leave("the page crashed, or was closed or reloaded")

    def _refuse(self, status: HTTPStatus) -> None:
        self._head(status)

    def _head(self, status: HTTPStatus, suffix: str = "", size: int | None = 0) -> None:
        self.send_response(status)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
        for name, value in (
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", self.server.policy),
            ("Cross-Origin-Embedder-Policy", "require-corp"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
