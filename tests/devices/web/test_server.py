"""Who gets what from the server of a page, asked by hand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil
import pytest

from torchopt2edge.devices.web.server import PageServer, own, policy


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    """A server with one package, whose page nobody shows."""
    folder = tmp_path / "packages/node_modules/@of/it"
    folder.mkdir(parents=True)
    (folder / "it.mjs").write_text("export {};")
    (folder / "notes.txt").write_text("not for a page")
    (tmp_path / "packages/secret.json").write_text("{}")
    (folder / "out.json").symlink_to(tmp_path / "packages/secret.json")
    found = PageServer(tmp_path / "packages")
    yield found
    found.close()


def ask(
    server: PageServer, path: str, method: str = "GET", body: bytes = b"", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Ask the server as whoever likes to; `path` is below the token unless it begins with /."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(
            method,
            path if path.startswith("/") else f"/{server.desk.token}/{path}",
            skip_host="Host" in given,
        )
        if method == "POST" and "Content-Length" not in given:
            given["Content-Length"] = str(len(body))
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers)
    finally:
        connection.close()


def test_it_listens_on_the_loopback_alone(server: PageServer) -> None:
    listening = [one.laddr for one in psutil.Process().net_connections() if one.status == "LISTEN"]
    assert (listening[0].ip, listening[0].port) == ("127.0.0.1", server.port)
    assert len(listening) == 1


def test_who_does_not_know_the_token_gets_nothing(server: PageServer) -> None:
    for path in ("/", "/alive", "/wrong/", f"/{server.desk.token[:-1]}/", "/é/command", "//"):
        path = path.encode().decode("latin-1")
        connection = socket.create_connection(("127.0.0.1", server.port))
        with connection:
            host = f"127.0.0.1:{server.port}"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
            said = connection.makefile("rb").read()
        assert said.split()[1] == b"404", path
        assert said.endswith(b"\r\n\r\n")
    assert ask(server, "/wrong/answer", "POST", b"x")[0] == 404
    assert ask(server, "")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", ""])
def test_another_host_is_refused(server: PageServer, host: str) -> None:
    assert ask(server, "", Host=host)[:2] == (421, b"")
    assert ask(server, "command", Host=host)[:2] == (421, b"")


def test_another_site_is_refused(server: PageServer) -> None:
    for site in ("cross-site", "same-site"):
        assert ask(server, "page.mjs", Sec_Fetch_Site=site)[0] == 404
        assert ask(server, "answer", "POST", b"x", Sec_Fetch_Site=site)[0] == 404
    assert ask(server, "page.mjs", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "node_modules/../secret.json",
        "node_modules/%2e%2e/secret.json",
        "node_modules//etc/passwd",
        "node_modules/@of/it/out.json",
        "node_modules/@of/it/notes.txt",
        "node_modules/@of/it",
        "node_modules/%00.json",
        "node_modules/no.json",
        "candidate",
        "__init__.py",
        "../server.py",
        "package.json",
        "index.html",
    ],
)
def test_only_what_the_page_needs_is_given(server: PageServer, path: str) -> None:
    assert ask(server, path)[:2] == (404, b"")


def test_what_the_page_needs_is_given(server: PageServer, tmp_path: Path) -> None:
    status, body, headers = ask(server, "node_modules/@of/it/it.mjs")
    assert (status, body) == (200, b"export {};")
    assert headers["Content-Type"].startswith("text/javascript")
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == server.policy
    server.desk.candidate = tmp_path / "packages/secret.json"
    assert ask(server, "candidate")[:2] == (200, b"{}")


def test_a_post_is_bounded(server: PageServer) -> None:
    assert ask(server, "page.mjs", "POST", b"x")[0] == 404
    assert ask(server, "answer", "POST", b"", Content_Length="-1")[0] == 400
    assert ask(server, "answer", "POST", b"", Content_Length="99999999999")[0] == 400
    assert ask(server, "log", "POST", b"", Content_Length=str(1 << 20))[0] == 400
    assert ask(server, "", "PUT")[0] == 501


def test_the_log_is_bounded_and_steers_no_terminal(server: PageServer, tmp_path: Path) -> None:
    server.desk.keep_log(tmp_path / "log")
    assert ask(server, "log", "POST", b"one\x1b[2Jtwo\r\n\xff")[0] == 204
    assert (tmp_path / "log").read_text() == "one [2Jtwo \n�\n"
    for _ in range(20):
        ask(server, "log", "POST", b"x" * (1 << 16))
    assert (tmp_path / "log").stat().st_size < (1 << 20) + 1000


def test_the_policy_allows_webassembly_and_no_eval() -> None:
    said = policy(own("index.html"))
    assert "'wasm-unsafe-eval'" in said
    assert "'unsafe-eval'" not in said
    assert "'unsafe-inline'" not in said
    assert said.startswith("default-src 'none'")


def test_closing_wakes_whoever_waits(server: PageServer) -> None:
    found: dict[str, int] = {}

    def wait(path: str) -> None:
        found[path] = 0
        with contextlib.suppress(OSError, HTTPException):  # cut before its answer
            found[path] = ask(server, path)[0]

    waiting = [threading.Thread(target=wait, args=[path]) for path in ("command?1", "alive")]
    for one in waiting:
        one.start()
    assert server.desk.arrived.wait(10)
    server.close()
    for one in waiting:
        one.join(10)
        assert not one.is_alive()
    assert found["alive"] == 200
    assert found["command?1"] in (0, 410)
    server.close()


def test_a_question_after_the_end_is_told_so(server: PageServer) -> None:
    server.desk.close()
    assert [ask(server, "command")[0] for _ in range(2)] == [410, 410]


def test_frames_come_in_order_and_each_once(server: PageServer) -> None:
    for at in range(3):
        server.desk.command(f"frame {at}\n".encode())
    asked = [ask(server, f"command?{number}")[1] for number in (1, 2, 2, 3)]
    assert asked == [b"frame 0\n", b"frame 1\n", b"frame 1\n", b"frame 2\n"]
    for number in (1, 1, 0, 3):  # what was lost on the way is sent again, and counts once
        assert ask(server, f"answer?{number}", "POST", b"answer")[0] == 204
    assert server.desk.next_answer(1.0) == b"answer"
    with pytest.raises(TimeoutError):
        server.desk.next_answer(0.0)
