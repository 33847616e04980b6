"""A round counts only where its page was in front all the time: runner.mjs with a page in hand."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from torchopt2edge.devices.web.server import own

RUNTIME = """
export const hooks = { during: () => {} };
export async function start() { return {}; }
export async function open() {
  return async () => { hooks.during(); return new Map(); };
}
"""
PAGE = """
import { hooks } from "./ort.mjs";
import { Runner } from "./runner.mjs";

class Page extends EventTarget {
  visibilityState = "visible";
  show(state) {
    this.visibilityState = state;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}
const page = new Page();
globalThis.document = page;
globalThis.navigator ??= { userAgent: "none" };
globalThis.crossOriginIsolated = true;
globalThis.fetch = async () => ({ ok: true, arrayBuffer: async () => new ArrayBuffer(0) });
const runner = new Runner();
await runner.answer({ cmd: "open", backend: "ort", file: "x", threads: 1 });
await runner.answer({ cmd: "load" }, []);
let runs = 0, hides = Number(process.argv[2]);
hooks.during = () => {
  runs += 1;
  if (runs % 4 === 2 && hides > 0) {
    hides -= 1;
    page.show("hidden");
    setTimeout(() => page.show("visible"), 20);
  }
};
const command = { cmd: "round", min_samples: 4, max_samples: 4, seconds: 0 };
try {
  const [event] = await runner.answer(command);
  console.log(JSON.stringify({ samples: event.latency_ns.length, runs }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message, runs }));
}
process.exit(0);
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The runner with a runtime and a page that the test has in hand."""
    if shutil.which("node") is None:
        pytest.skip("no node: apt-get install nodejs")
    (tmp_path / "runner.mjs").write_bytes(own("runner.mjs"))
    (tmp_path / "ort.mjs").write_text(RUNTIME)
    (tmp_path / "page.mjs").write_text(PAGE)
    return tmp_path / "page.mjs"


@pytest.mark.parametrize(
    ("hides", "wanted"),
    [
        (0, {"samples": 4, "runs": 4}),
        (1, {"samples": 4, "runs": 8}),
        (9, {"error": "in the middle of a round", "runs": 8}),
    ],
)
def test_a_round_that_was_hidden_is_timed_again(
    page: Path, hides: int, wanted: dict[str, object]
) -> None:
    done = subprocess.run(
        ["node", str(page), str(hides)], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)
    assert str(wanted.pop("error", "")) in found.pop("error", "")
    assert found == wanted
