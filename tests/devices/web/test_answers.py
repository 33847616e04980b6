"""What a page and a phone's browser say: bounded, and anything strange is refused by name."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tests.hostile import EXAMPLES, VALUES, damaged, mutated
from torchopt2edge.bench import answers as runner_answers
from torchopt2edge.devices.web import answers
from torchopt2edge.devices.web.browsers import Person
from torchopt2edge.devices.web.job import BrowserJob
from torchopt2edge.devices.web.mailbox import Desk
from torchopt2edge.devices.web.server import PageServer
from torchopt2edge.errors import BenchError
from torchopt2edge.runner.frames import encode

URL = "http://127.0.0.1:1/t/"
TABS = json.dumps([{"id": "A1", "url": URL}, {"id": "B2", "url": "http://x/"}]).encode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    """A server whose page nobody shows."""
    found = PageServer(tmp_path)
    yield found
    found.close()


def test_the_tab_of_a_page_is_found_and_its_id_is_a_word() -> None:
    assert answers.tabs(TABS, URL) == ["A1"]
    for wrong in ("../x", "a b", "a\r\nHost: x", 5, None, ["a"], "x" * 500):
        assert answers.tabs(json.dumps([{"id": wrong, "url": URL}]).encode(), URL) == []
    assert answers.tabs(b"[" * 100_000, URL) == []


@settings(max_examples=EXAMPLES, deadline=None)
@given(body=damaged(TABS) | VALUES.map(lambda one: json.dumps(one).encode()))
def test_any_list_of_tabs_is_read(body: bytes) -> None:
    assert all(one.isascii() and "/" not in one for one in answers.tabs(body, URL))


@pytest.mark.parametrize(
    ("text", "found"),
    [("0", 0), ("10", 10), ("11", None), ("-1", None), ("", None), (None, None), ("²", None),
     ("٣", None), ("9" * 5000, None), ("1e1", None)],
)  # fmt: skip
def test_a_length_is_a_number_up_to_a_bound(text: str | None, found: int | None) -> None:
    assert answers.length(text, 10) == found


def test_only_the_answer_that_is_waited_for_is_kept(tmp_path: Path) -> None:
    desk = Desk()
    desk.answer(1, b"before it was asked")
    desk.command(b"one")
    assert not desk.expects(2)
    desk.answer(2, b"ahead")
    assert desk.expects(1)
    desk.answer(1, b"first")
    desk.answer(1, b"again")
    assert desk.next_answer(1.0) == b"first"
    with pytest.raises(TimeoutError):
        desk.next_answer(0.0)


def test_connections_are_bounded(server: PageServer) -> None:
    with contextlib.ExitStack() as closing:
        held = [
            closing.enter_context(socket.create_connection(("127.0.0.1", server.port), 10.0))
            for _ in range(answers.MOST_CONNECTIONS + 20)
        ]
        assert held[-1].recv(1) == b""  # closed at once
        assert len(server._open) <= answers.MOST_CONNECTIONS + 1
    with socket.create_connection(("127.0.0.1", server.port), 10.0) as one:
        one.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        one.settimeout(10.0)
        while not (said := one.recv(100)):
            continue
        assert said.startswith(b"HTTP/1.0 404")


REQUEST = (
    "POST /{token}/answer?1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 12\r\n\r\n"
    '{{"event": 1}}\n'
)


def test_a_damaged_request_leaves_the_server_as_it_is(server: PageServer) -> None:
    whole = REQUEST.format(token=server.desk.token, port=server.port).encode()
    snippets = (b"\r\n", b"Content-Length: 99999999999\r\n", b"GET ", b"alive")

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(request=damaged(whole, snippets))
    def send(request: bytes) -> None:
        address = ("127.0.0.1", server.port)
        with contextlib.suppress(OSError), socket.create_connection(address, 10.0) as one:
            one.sendall(request)
            one.shutdown(socket.SHUT_WR)
            while one.recv(1 << 16):
                continue

    send()
    assert server.desk.gone in (None, "the page crashed, or was closed or reloaded")
    assert server._thread.is_alive()


ROUND = {
    "event": "round", "latency_ns": [5, 6], "begin_ns": 10, "wall_ns": 20, "cpu_ns": -1,
    "involuntary": -1, "joules": None, "stable": True, "finite": True, "vm_hwm_bytes": -1,
    "sensors": {"temperature_c": "unavailable"}, "now_ns": 30,
}  # fmt: skip
OPENED = {"event": "opened", "load_ms": 1.0, "receipt": {"runner": "web"}, "now_ns": 30}
WHOLE = encode(ROUND | {"event": "called"}, {"y": np.ones((2, 3), np.float32)})


def answered(body: bytes, folder: Path) -> tuple[dict[str, Any], Any]:
    """Let a page give one answer, and return what the job makes of it."""
    server = PageServer(folder)
    job = BrowserJob(server, Person(), folder / "log", {"affinity": [0]})
    try:
        server.desk.arrive()
        job.send({"cmd": "round"})
        server.desk.answer(1, body)
        return job.receive(5.0)
    finally:
        job.close()


def test_times_of_a_page_are_put_on_our_clock(tmp_path: Path) -> None:
    header, _ = answered(encode(ROUND), tmp_path)
    assert header["begin_ns"] > ROUND["begin_ns"]
    assert "now_ns" not in header
    header, _ = answered(encode(OPENED), tmp_path)
    assert header["receipt"] == {"runner": "web", "affinity": [0]}


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    body=damaged(WHOLE)
    | mutated(ROUND).map(lambda one: json.dumps(one).encode() + b"\n")
    | mutated(OPENED).map(lambda one: json.dumps(one).encode() + b"\n")
)
def test_a_mutated_answer_of_a_page_is_read_or_refused(
    body: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    why = ""
    try:
        header, _ = answered(body, tmp_path_factory.mktemp("page"))
        runner_answers.timed(header, 100)
    except BenchError as error:
        why = error.what
    assert why.isprintable()
