"""A clock on the wall that jumps in the middle of a measurement changes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import torchopt2edge
from torchopt2edge.deploy import native_build
from torchopt2edge.deploy.runner_zip import runner_file
from torchopt2edge.devices.child_process import ProcessJob
from torchopt2edge.types import Candidate

PACKAGE = Path(torchopt2edge.__file__).parent
ROOMS = ("bench", "deploy", "devices", "runner")
HARNESS = [path for room in ROOMS for path in (PACKAGE / room).rglob("*.[pch]*")]
WALL = r"time\.time(_ns)?\(|datetime\.(now|today)|utcnow|CLOCK_REALTIME|gettimeofday|[^_]time\(NULL"

JUMPING = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long jumps; /* a day, to and fro, at each look; the other clocks are the system's own */
static long jump(void) { return (jumps++ % 2 ? -1 : 1) * 86400; }

int clock_gettime(clockid_t which, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, which, now);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += jump();
    return (int)failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    *now = (struct timeval){real.tv_sec, real.tv_nsec / 1000};
    return 0;
}
time_t time(time_t *into) {
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    if (into) *into = real.tv_sec;
    return real.tv_sec;
}
"""

HOST = """
import sys, time
from pathlib import Path
import numpy as np
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices import Local
from torchopt2edge.types import Candidate, Signature

first, second = time.time(), time.time()
assert abs(second - first) > 86_000, (first, second)
signature = Signature.from_json({signature!r})
found = Candidate("a", "ort", "fp32", Path({file!r}), signature, "")
sample = {{"image": np.ones((1, 3, 16, 16), np.float32)}}
brief = TimingPlan("brief", 10, 0.05, 5, 0.02, 0.0, prime=False, timeout_s=60.0)
begin = time.monotonic()
(row,) = measure([found], lambda _: sample, Local(), brief, Path({work!r}))
assert row.err is None, row.err
assert len(row.latency_ns) == 5
assert max(ns for each in row.latency_ns for ns in each) < 3e9
assert 0 <= row.facts["warmup_s"] <= time.monotonic() - begin
print("measured")
"""


@pytest.fixture
def jumping(tmp_path: Path) -> str:
    """A library that makes the wall clock of whoever loads it jump."""
    source, library = tmp_path / "jumping.c", tmp_path / "jumping.so"
    source.write_text(JUMPING)
    words = [*native_build.compiler(), "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
    subprocess.run(words, check=True, capture_output=True)
    return str(library)


@pytest.mark.parametrize("path", HARNESS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_is_timed_by_the_clock_on_the_wall(path: Path) -> None:
    if path.suffix in (".py", ".c", ".h"):
        assert re.search(WALL, path.read_text()) is None


@pytest.mark.parametrize("runner", ["python", "native"])
def test_a_runner_does_not_see_it(
    jumping: str, net: Callable[..., Candidate], tmp_path: Path, runner: str
) -> None:
    candidate, given = net("a"), {"x": np.ones((1, 3, 16, 16), np.float32)}
    native = runner == "native"
    argv = [str(native_build.runner_binary())] if native else [sys.executable, str(runner_file())]
    environment = {"LD_PRELOAD": jumping, "ORT_DISABLE_TELEMETRY": "1"}
    opening = {"cmd": "open", "backend": "ort", "file": str(candidate.file), "threads": 1}
    opening |= {
        "signature": candidate.signature.to_json(),
        "library": str(native_build.library("ort")),
    }
    timing = {"cmd": "round", "min_samples": 3, "seconds": 0.05, "max_samples": 1_000_000}
    with ProcessJob.start(argv, environment, tmp_path / "log") as job:
        for header, arrays in ((opening, None), ({"cmd": "load"}, given), (timing, None)):
            job.send(header, arrays)
            event, _ = job.receive(60.0)
    assert event["event"] == "round", event
    assert 0.05e9 <= event["wall_ns"] < 30e9
    assert len(event["latency_ns"]) >= 3
    assert all(0 < ns < 30e9 for ns in event["latency_ns"])


def test_a_host_does_not_see_it(
    jumping: str, net: Callable[..., Candidate], tmp_path: Path
) -> None:
    candidate = net("a")
    code = HOST.format(
        signature=candidate.signature.to_json(), file=str(candidate.file), work=str(tmp_path)
    )
    done = subprocess.run(
        ["env", f"LD_PRELOAD={jumping}", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "measured\n"), done.stderr
