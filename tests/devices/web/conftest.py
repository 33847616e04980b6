"""Real headless Chromium and real npm packages; after every test nothing of either runs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.web.browsing import MISSING, browsers, settled
from torchopt2edge.devices.browser import Browser
from torchopt2edge.devices.web import browsers as shown
from torchopt2edge.devices.web import packages as web_packages


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the profiles are; after every test it is empty, and no browser and thread is left."""
    with tempfile.TemporaryDirectory(prefix="t2e-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert settled(lambda: not browsers(Path(folder)), 2.0)
        assert [*Path(folder).glob("t2e-browser-*")] == []
        assert not [one for one in threading.enumerate() if one.name == "t2e-page"]


@pytest.fixture(scope="session")
def packages(cache: Path) -> Path:
    """The runtimes, fetched once per session."""
    if shutil.which("npm") is None:
        pytest.skip("no npm, which fetches the browser's runtimes: apt-get install npm")
    if subprocess.run(["npm", "ping"], capture_output=True).returncode:
        pytest.skip("npm does not reach its registry: see that `npm ping` works")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHOPT2EDGE_CACHE", str(cache))
        return web_packages.installed(fetch=True)


@pytest.fixture
def device(packages: Path) -> Browser:
    """The browser of this machine."""
    if not any(shutil.which(name) for name in shown.NAMES):
        pytest.skip(MISSING)
    return Browser()
