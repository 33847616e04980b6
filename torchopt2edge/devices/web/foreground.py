"""Brings a page of a phone's browser to the front: only the page in front runs at full speed.

Chrome on Android answers its developer tools at a socket of the phone's own, which adb forwards.
Where nobody answers there, the page itself waits to be brought to the front by hand.
"""

from __future__ import annotations

import contextlib
from http.client import HTTPConnection, HTTPException

from torchopt2edge.devices.answers import number, shown
from torchopt2edge.devices.remote.transport import call
from torchopt2edge.devices.web import answers
from torchopt2edge.devices.web.server import HOST
from torchopt2edge.errors import DeviceError

_SOCKET = "localabstract:chrome_devtools_remote"
_PATIENCE_S = 5.0


def forward(serial: str) -> int | None:
    """Return a port here that leads to the phone's browser; None when adb gives none."""
    found = call(["adb", "-s", serial, "forward", "tcp:0", _SOCKET])
    port = number(shown(found.stdout), 65535)
    return port if found.code == 0 else None


def unforward(serial: str, port: int) -> None:
    """Give the port up; a phone that is gone has none any more."""
    with contextlib.suppress(DeviceError):
        call(["adb", "-s", serial, "forward", "--remove", f"tcp:{port}"])


def bring(port: int, url: str) -> bool:
    """Bring the tab with that address to the front; False where that cannot be done."""
    try:
        ids = answers.tabs(_got(port, "/json/list"), url)
        return bool(ids) and bool(_got(port, f"/json/activate/{ids[0]}"))
    except (OSError, HTTPException):
        return False  # whatever answers there, it is not the developer tools that we know


def _got(port: int, path: str) -> bytes:
    connection = HTTPConnection(HOST, port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(1 << 22)
        return body if answer.status == 200 else b""
    finally:
        connection.close()
