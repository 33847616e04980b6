"""An arm64 board behind a real sshd, on every core that qemu plays: what runs there is right.

A core is emulated instruction by instruction, so the kernels that a runtime picks for it are those
that it picks on the hardware, and its times mean nothing: rows say so and nobody wins.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.conftest import users_cache
from tests.devices.arm import ARM, CORES, Board, board
from tests.devices.serving import Network, network
from torchopt2edge import converter
from torchopt2edge.backends.litert.backend import LiteRT
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.bench.child_session import ChildSession, open_child
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.deploy.launch import launch
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Sources
from torchopt2edge.store import Store
from torchopt2edge.types import SCHEMES, Candidate, Constraints
from torchopt2edge.verdict.decide import decide
from torchopt2edge.workflow.calibration import signature_in

if TYPE_CHECKING:
    from tests.hub import Made

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]
Start = Callable[[str], Board]

EVERY = "TORCHOPT2EDGE_TEST_CORES"
_USUAL = ("cortex-a53", "max")  # the oldest and the newest: CI runs these
_OLD = ("cortex-a53", "cortex-a72")  # ARMv8.0: no atomics in one instruction (LSE), no dot product
FLOOR_DB = {"fp32": 100.0, "int8": 35.0}
"""How close outputs here and there must be (fp32: 123 dB and more; int8: the same bits, though
another x86 may round the other way at a tie)."""


def _case(core: str) -> object:
    if core in _USUAL or os.environ.get(EVERY) == "all":
        return core
    why = f"{EVERY}=all runs this core as well"
    return pytest.param(core, marks=pytest.mark.skip(reason=why))


each_core = pytest.mark.parametrize("core", [_case(core) for core in CORES])


@pytest.fixture(scope="module")
def board_cable() -> Iterator[Network]:
    """The network of the boards."""
    with network(3) as found:
        yield found


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, board_cable: Network) -> Iterator[Start]:
    """Start the board with a core of that kind, once each."""
    with ExitStack() as closing:

        @functools.cache
        def run(core: str) -> Board:
            folder = tmp_path_factory.mktemp("board") / core
            return closing.enter_context(board(folder, board_cable, core))

        yield run


def device_of(one: Board, folder: str = "t2e") -> Ssh:
    """Return the board as a user has it, with a folder of a test's own."""
    return Ssh("board", config=str(one.server.config), workdir=f"/root/{folder}")


@pytest.fixture(scope="module")
def files(
    tiny: Made,
    hub_store: Store,
    sealed: converter.Environment,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[Candidate, Sample, Sample]]:
    """Three nets in fp32 and int8 for both runtimes, two samples, and the answers here."""
    from tests import hub, nets

    fresh = tmp_path_factory.mktemp
    shape: dict[str, tuple[int, ...]] = {"image": (3, 32, 32)}
    made = {
        "mobile": tiny,
        "separable": hub.make(nets.Depthwise, shape, hub_store, fresh("separable")),
        "residual": hub.make(nets.Residual, shape, hub_store, fresh("residual")),
    }
    found = []
    for name, one in made.items():
        inputs = {key: array[:2] for key, array in one.inputs.items()}
        for backend in (Ort(isa="arm64"), LiteRT()):
            with users_cache():
                base = backend.base(one.graph, hub_store)
            sources = Sources(one.graph, base, one.ranges, one.samples.path)
            for scheme in FLOOR_DB:
                out = fresh(f"{name}-{backend.name}-{scheme}", numbered=False)
                file = out / backend.lower(sources, SCHEMES[scheme], out)["file"]
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                signature = signature_in(out)
                candidate = Candidate(out.name, backend.name, scheme, file, signature, digest)
                found.append((candidate, inputs, backend.open(file, signature, 1)(inputs)))
    return found


@each_core
def test_it_is_the_core_that_was_asked_for(start: Start, core: str, tmp_path: Path) -> None:
    """Also in a job, whose environment is made anew; else the matrix would be one core."""
    code = (
        "import ctypes, json, os\n"
        "flags = ctypes.CDLL(None).getauxval\n"
        "flags.restype = ctypes.c_ulong\n"
        "print(json.dumps({'arch': os.uname().machine, 'lse': bool(flags(16) >> 8 & 1)}))\n"
    )
    one = start(core)
    device = device_of(one)
    with device.start([device.python, "-c", code], tmp_path / "log") as job:
        assert job.receive(60.0)[0] == {"arch": "aarch64", "lse": core not in _OLD}
        assert one.processes(device.workdir)
    assert one.is_idle(device.workdir, 10.0)


def test_its_facts(start: Start) -> None:
    found = device_of(start("max")).facts()
    assert found["arch"] == "aarch64"
    assert found["emulated"] is True
    assert found["os"].startswith("Debian")
    assert found["cores"] == 4
    assert [one["cores"] for one in found["core_classes"]] == [[0, 1, 2, 3]]
    assert found["governor"] == "ondemand"
    assert Ort().for_target(found).isa == "arm64"
    assert {"asimddp", "asimdhp"} <= set(found["cpu_flags"])
    assert "asimddp" not in device_of(start("cortex-a53")).facts()["cpu_flags"]


@each_core
def test_both_runtimes_compute_there_what_they_compute_here(
    start: Start,
    core: str,
    files: list[tuple[Candidate, Sample, Sample]],
    tmp_path: Path,
) -> None:
    """All files go through one process, for an import of both runtimes takes seconds there."""
    one, far = start(core), {}
    device = device_of(one)
    with device.start(launch(files[0][0], device).argv, tmp_path / "log") as job:
        for candidate, inputs, here in files:
            session = ChildSession(candidate, job, 120.0)
            session.open(device.push(candidate.file), 1)
            assert session.receipt["emulated"] is True
            far[candidate.id] = parity(here, session(inputs)).sqnr_db
            if candidate.id.startswith("mobile"):
                session.load_timed({name: array[:1] for name, array in inputs.items()})
                assert len(session.round(3, 0.0, 3).latency_ns) == 3
    wrong = {name: db for name, db in far.items() if db < FLOOR_DB[name.rpartition("-")[2]]}
    assert len(far) == 12
    assert wrong == {}
    assert one.is_idle(device.workdir, 10.0)


def test_emulated_times_name_no_winner(
    start: Start,
    net: MakeNet,
    tflite: Candidate,
    sample: Sample,
    brief: TimingPlan,
    tmp_path: Path,
) -> None:
    one = start("max")
    device = device_of(one)
    rows = measure([net("a"), tflite], lambda _: sample, device, brief, tmp_path / "work")
    assert [row.err for row in rows] == [None, None]
    assert all("emulated" in row.facts["flags"] for row in rows)
    assert {row.facts["arch"] for row in rows} == {"aarch64"}
    verdict = decide(rows, Constraints(), None)
    assert verdict.winner is None
    assert verdict.tie == ()
    assert any("are emulated" in reason for reason in verdict.reasons)
    assert one.is_idle(device.workdir, 10.0)


def test_its_sensors_are_read_there(start: Start, net: MakeNet, tmp_path: Path) -> None:
    one = start("max")
    zone = one.root / "sys/class/thermal/thermal_zone0/temp"
    with open_child(net("a"), device_of(one), tmp_path / "log") as session:
        for degrees in (48.3, 71.25):
            zone.write_text(f"{degrees * 1000:.0f}\n")
            assert session.sense()["temperature_c"] == degrees
        assert session.sense()["capped"] is False
        (one.root / "etc/vcgencmd/get_throttled").write_text("throttled=0x50005\n")
        assert session.sense()["under_voltage"] is True
        (one.root / "etc/vcgencmd/get_throttled").write_text("throttled=0x0\n")


def test_the_native_runner_runs_on_a_core_without_lse(
    start: Start,
    tflite: Candidate,
    net: MakeNet,
    sample: Sample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An accelerator in LiteRT's wheel needs LSE: who lets it be registered dies by SIGILL there.

    (The Python runner, whose interpreter loads none, is on that core in the test of all files.)
    """
    monkeypatch.setenv("PIP_FIND_LINKS", str(ARM / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the wheels are those that the board has
    one = start("cortex-a53")
    device = replace(device_of(one), runner="native", fetch=True)
    for candidate in (tflite, net("a", depth=2)):
        with open_child(candidate, Local(), tmp_path / "log") as session:
            here = session(sample)
        with open_child(candidate, device, tmp_path / "log") as session:
            assert parity(here, session(sample)).sqnr_db > FLOOR_DB["fp32"]
            assert session.receipt["emulated"] is True
            assert session.receipt["runner"] == "native"
    assert one.is_idle(device.workdir, 10.0)
