"""The examples run as a user runs them, and add no more than five lines of ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchopt2edge as t2e
from torchopt2edge.models import count

EXAMPLES = Path(__file__).parents[1] / "examples"
MARK = re.compile(r"#.*\+t2e")


def run(folder: Path, *argv: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(folder / argv[0]), *argv[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", ["plain_loop", "lightning_repo", "hydra_repo"])
def test_ours_are_five_lines(name: str) -> None:
    files = [*(EXAMPLES / name).glob("*.py"), *(EXAMPLES / name).rglob("*.yaml")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    marked = [line for line in lines if MARK.search(line) and not line.startswith('"')]
    assert 0 < len(marked) <= 5
    ours = [
        line for line in lines if re.search(r"\bt2e\.|\bc\.|torchopt2edge import|callback", line)
    ]
    ours = [line for line in ours if not re.search("Callback|callback_metrics|callbacks", line)]
    after = [line for line in ours if "+t2e" not in line]
    assert not after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"), [("plain_loop", 0.4), ("lightning_repo", 0.5)], ids=["plain", "lightning"]
)
def test_a_training_repository_ends_with_a_small_net(
    name: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run(EXAMPLES / name, "train.py", str(tmp_path / "small"), cwd=tmp_path)
    assert float(said.split()[-1]) > 0.85
    monkeypatch.syspath_prepend(EXAMPLES / name)
    sys.modules.pop("train", None)
    import train  # type: ignore[import-not-found]

    whole = train.net()
    before = count.macs(whole, (1, 8, 8))
    small = t2e.rebuild(train.net(), tmp_path / "small")
    sys.modules.pop("train", None)
    assert count.macs(small, (1, 8, 8)) <= share * before
    assert small.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_a_hydra_application_composes_our_groups(tmp_path: Path) -> None:
    short = ["stage.net.epochs=1", "stage.small.epochs=1", f"out={tmp_path / 'run'}"]
    said = run(EXAMPLES / "hydra_repo", "app.py", *short, cwd=tmp_path)
    assert "small" in said or "net" in said
    rows = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()]
    names = {row["candidate"] for row in rows if row["err"] is None}
    assert {"net-ort-fp32", "net-ort-int8", "small-ort-fp32", "small-ort-int8"} <= names
