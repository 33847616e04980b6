"""The browser's runtimes: fetched only when asked to, pinned, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torchopt2edge.devices.browser import Browser
from torchopt2edge.devices.web import packages as web_packages
from torchopt2edge.devices.web.server import own
from torchopt2edge.errors import DeviceError


def test_nothing_is_fetched_without_consent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path))
    with pytest.raises(DeviceError, match=r"not installed.*device\.fetch=true"):
        Browser().start(["web", "ort"], tmp_path / "log")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="npm, which fetches"):
        web_packages.installed(fetch=True)
    assert not (tmp_path / "web").exists()


def test_npm_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nmkdir node_modules\necho 'npm error EINTEGRITY' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    with pytest.raises(DeviceError, match="EINTEGRITY"):
        web_packages.installed(fetch=True)
    assert [*(tmp_path / "cache/web").iterdir()] == []


def test_the_pins_hold_every_file_and_name_no_registry() -> None:
    packages = json.loads(own("package-lock.json"))["packages"]
    asked = json.loads(own("package.json"))["dependencies"]
    assert packages[""]["dependencies"] == asked
    for name, one in packages.items():
        if name:
            assert one["integrity"].startswith("sha512-"), name
        assert "resolved" not in one
    for name, wanted in asked.items():
        assert packages[f"node_modules/{name}"]["version"] == wanted
