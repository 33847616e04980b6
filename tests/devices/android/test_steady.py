"""A phone is steady while it is measured, and as before when that ended, however it ended."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from tests.devices.android.test_sensors import CHARGING, THERMAL
from tests.devices.arm import ARM, Handset, adb_client, handset
from tests.devices.serving import all_gone, kill_all, network, skip, supervisors
from tests.devices.shells import SHELLS, Shell, ShellLink
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices.adb import Adb
from torchopt2edge.devices.android import steady as keeping
from torchopt2edge.devices.android.steady import steady
from torchopt2edge.devices.remote.device import RUN
from torchopt2edge.devices.remote.transport import LinkDown
from torchopt2edge.types import Candidate

_STAY, _SAVER = "stay_on_while_plugged_in", "low_power"
# What a phone keeps of its settings, as files of one folder; `cmd` may not know the mode.
_PROGRAMS = {
    "dumpsys": 'cat "{at}/$1"',
    "settings": """case $1 in
  get) cat "{at}/$3" 2>/dev/null || echo null ;;
  put) echo "$4" >"{at}/$3" ;;
  delete) rm -f "{at}/$3" ;;
esac""",
    "svc": 'echo 15 >"{at}/stay_on_while_plugged_in"',
    "cmd": 'if [ -e "{at}/old" ]; then exit 255; fi; echo "$3" >"{at}/fixed"',
}


class PhoneShell(Shell):
    """A device with the programs of a phone."""

    @cached_property
    def link(self) -> ShellLink:
        """The link to nowhere."""
        made = super().link
        return replace(made, path=f"{self.root}/phone/bin:{made.path}")


@dataclass
class Phone:
    """A phone that is this machine, seen through a shell; ``at`` is what it remembers."""

    device: Shell
    at: Path

    def settings(self) -> dict[str, str]:
        """What its settings are now."""
        names = (_STAY, _SAVER, "fixed")
        return {
            name: (self.at / name).read_text().strip()
            for name in names
            if (self.at / name).exists()
        }

    @property
    def note(self) -> Path:
        """Where the keeper notes what the settings were."""
        return self.at.parent / "board/steady.before"

    def settles(self, settings: dict[str, str], within_s: float = 15.0) -> bool:
        """Whether the settings become these, and no note of other ones is left."""
        deadline = time.monotonic() + within_s
        while self.settings() != settings or self.note.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


@pytest.fixture(params=SHELLS)
def phone(request: pytest.FixtureRequest, tmp_path: Path) -> Phone:
    """A phone with each shell: its screen goes off after a while, it saves its battery."""
    shell, box = SHELLS[request.param]
    for needed in (shell[0], box):
        if needed and not shutil.which(needed):
            skip(f"there is no {needed}")
    at = tmp_path / "phone"
    (at / "bin").mkdir(parents=True)
    device = PhoneShell(
        kind=request.param,
        root=tmp_path,
        python=sys.executable,
        workdir=str(tmp_path / "board"),
        patience_s=5,
        link_patience_s=2,
    )
    for name, script in _PROGRAMS.items():
        program = at / "bin" / name
        program.write_text(f"#!/bin/sh\n{script.format(at=at)}\n")
        program.chmod(0o755)
    (at / "thermalservice").write_text(THERMAL)
    (at / "battery").write_text(CHARGING)
    (at / _STAY).write_text("0\n")
    (at / _SAVER).write_text("1\n")
    return Phone(device, at)


BEFORE = {_STAY: "0", _SAVER: "1"}
DURING = {_STAY: "15", _SAVER: "0"}


def test_it_is_steady_in_the_block_and_as_before_behind_it(phone: Phone, tmp_path: Path) -> None:
    begin = time.monotonic()
    with steady(phone.device) as keeper:
        assert keeper is not None
        assert keeper.facts() == {"steady": {"stay_on": "yes", "low_power": "no"}}
        assert phone.settings() == DURING
        assert keeper.sense()["temperature_c"] == 62.5
        (phone.at / "thermalservice").write_text(THERMAL.replace("62.500004", "70.25"))
        deadline = time.monotonic() + 20.0
        while keeper.sense()["temperature_c"] != 70.25:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        moments = keeper.moments()
        assert [one["temperature_c"] for _, one in moments][:: len(moments) - 1] == [62.5, 70.25]
        times = [at for at, _ in moments]
        assert times == sorted(times)
        assert begin - 1.0 < times[0] <= times[-1] < time.monotonic() + 1.0
        assert all(one["charging"] is True for _, one in moments)
    assert phone.settings() == BEFORE
    assert not phone.note.exists()
    assert all_gone(tmp_path / "board", 5.0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_puts_all_back(phone: Phone, error: type[BaseException]) -> None:
    def fail() -> None:
        with steady(phone.device):
            assert phone.settings() == DURING
            raise error

    with pytest.raises(error):
        fail()
    assert phone.settings() == BEFORE


def test_what_was_never_set_is_unset_again(phone: Phone) -> None:
    (phone.at / _STAY).unlink()
    (phone.at / _SAVER).unlink()
    with steady(phone.device) as keeper:
        assert keeper is not None
        assert keeper.facts() == {"steady": {"stay_on": "yes"}}
    assert phone.settings() == {}


def test_a_fixed_performance_is_set_where_it_is_offered(phone: Phone) -> None:
    with steady(phone.device, fixed=True) as keeper:
        assert keeper is not None
        assert keeper.facts()["steady"]["fixed_performance"] == "yes"
        assert phone.settings()["fixed"] == "true"
    assert phone.settings() == {**BEFORE, "fixed": "false"}
    (phone.at / "fixed").unlink()
    (phone.at / "old").touch()
    with steady(phone.device, fixed=True) as keeper:
        assert keeper is not None
        assert keeper.facts()["steady"]["fixed_performance"] == "refused"


def test_a_link_that_breaks_at_the_start_starts_one_keeper(phone: Phone, tmp_path: Path) -> None:
    phone.device.cuts.plan = ["after", "stdin", "before"]
    with steady(replace(phone.device, link_patience_s=4)):
        assert phone.settings() == DURING
        assert len([*(tmp_path / "board/jobs").glob("*/steady-*")]) == 1
    assert phone.settings() == BEFORE


def test_a_start_that_goes_on_beside_its_own_repetition_starts_one_keeper(
    phone: Phone, tmp_path: Path
) -> None:
    job = f"{RUN}/steady-twice"
    script, body = keeping.start(phone.device, job, False), keeping.KEEPER.encode()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: phone.device.run(script, body).code, range(4)))
    assert found == [0] * 4
    running = [one.info["cmdline"] or [] for one in supervisors(tmp_path / "board")]
    shells = [words for words in running if "./keeper.sh" in words]
    assert len(shells) == 1
    assert phone.settings() == DURING
    phone.device.run(keeping.stop(phone.device.folder, job))
    assert phone.settings() == BEFORE
    assert all_gone(tmp_path / "board", 5.0)


def test_a_link_that_is_down_at_the_end_leaves_it_to_the_device(
    phone: Phone, tmp_path: Path
) -> None:
    with steady(phone.device) as keeper:
        assert keeper is not None
        phone.device.cuts.plan = ["before"] * 100
        assert keeper.moments() == []
        assert keeper.sense() == {}
    assert phone.settings() == DURING
    assert phone.settles(BEFORE)
    assert all_gone(tmp_path / "board", 10.0)


def test_a_host_that_is_killed_leaves_it_to_the_device(phone: Phone, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with steady(phone.device):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert phone.settings() == DURING
    assert phone.settles(BEFORE)
    assert all_gone(tmp_path / "board", 10.0)


def test_a_phone_that_was_switched_off_is_put_back_at_the_next_start(
    phone: Phone, tmp_path: Path
) -> None:
    with steady(phone.device) as keeper:
        assert keeper is not None
        phone.device.cuts.plan = ["before"] * 100
        kill_all(tmp_path / "board")
    assert (phone.settings(), phone.note.exists()) == (DURING, True)
    phone.device.cuts.plan = []
    with steady(phone.device) as keeper:
        assert keeper is not None
        assert keeper.facts() == {"steady": {"stay_on": "yes", "low_power": "no"}}
        # What is noted is what was before the first time.
        assert "stay_on 0" in phone.note.read_text()
        assert phone.settings() == DURING
        assert len([*(tmp_path / "board/jobs").glob("*/steady-*")]) == 1
    assert phone.settings() == BEFORE


def test_two_at_once_leave_what_was_before_both(phone: Phone) -> None:
    first, second = steady(phone.device), steady(phone.device)
    with first, second as keeper:
        assert keeper is not None
        assert keeper.facts() == {"steady": {}}
        assert keeper.sense()["temperature_c"] == 62.5
    assert phone.settings() == BEFORE
    with steady(phone.device):  # the other way round: the first to come is the first to go
        later = steady(phone.device)
        later.__enter__()
    assert phone.settings() == DURING
    later.__exit__(None, None, None)
    assert phone.settings() == BEFORE


def test_settings_that_cannot_be_put_back_stay_noted(phone: Phone) -> None:
    program = phone.at / "bin/settings"
    with steady(phone.device):
        whole = program.read_text()
        program.write_text("#!/bin/sh\nexit 1\n")
    assert phone.note.exists()
    program.write_text(whole)
    with steady(phone.device):
        pass
    assert phone.settings() == BEFORE


def test_a_machine_that_is_no_phone_is_left_alone(phone: Phone, tmp_path: Path) -> None:
    (phone.at / "bin/dumpsys").unlink()
    with steady(phone.device) as keeper:
        assert keeper is None
        assert phone.settings() == BEFORE
    assert not (tmp_path / "board").exists()


def test_a_phone_that_nobody_reaches_is_an_error(phone: Phone) -> None:
    phone.device.cuts.plan = ["before"] * 100
    with pytest.raises(LinkDown), steady(replace(phone.device, link_patience_s=0.5)):
        raise AssertionError("it was not reached")


def test_the_scripts_quote_what_they_are_given(phone: Phone, tmp_path: Path) -> None:
    device = replace(phone.device, workdir=f"{tmp_path}/a $(touch {tmp_path}/b) 'c'")
    with steady(device) as keeper:
        assert keeper is not None
        assert keeper.sense()["temperature_c"] == 62.5
    assert phone.settings() == BEFORE
    assert not (tmp_path / "b").exists()
    assert RUN in keeping.start(device, f"{RUN}/steady-x", False)


@pytest.fixture(scope="module")
def a_phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Handset, Path]]:
    """A phone's root behind a real adbd, and the folder of the adb client that sees it."""
    folder = tmp_path_factory.mktemp("steady")
    with (
        adb_client(folder / "client") as client,
        network(6) as net,
        handset(folder / "one", net, client) as found,
    ):
        yield found, client.parent


def test_a_phone_over_adb_is_steady_while_it_is_measured(
    a_phone: tuple[Handset, Path],
    net: Callable[..., Candidate],
    sample: dict[str, np.ndarray],
    brief: TimingPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its rows have the HAL's temperature, and its settings are as before."""
    phone, client = a_phone
    monkeypatch.setenv("PATH", str(client), prepend=":")
    monkeypatch.setenv("PIP_FIND_LINKS", str(ARM / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    device = Adb(
        serial=phone.serial,
        fetch=True,
        sysroot=str(ARM / "board"),
        fixed_performance=True,
    )
    said: dict[str, str] = {}
    kept = phone.root / "data/settings"

    def look(done: int, total: int, what: str) -> None:
        said.update({one.name: one.read_text().strip() for one in kept.iterdir()})

    (row,) = measure([net("a")], lambda _: sample, device, brief, tmp_path, look)
    assert row.err is None
    assert {one["temperature_c"] for one in row.facts["sensors"]} == {41.5}
    last = row.facts["sensors"][-1]
    assert (last["battery_c"], last["charging"], last["thermal_status"]) == (30.2, True, 0)
    assert row.facts["steady"] == {"stay_on": "yes", "fixed_performance": "yes"}
    assert said == {f"global.{_STAY}": "7", "fixed-performance": "true"}
    assert [one.name for one in kept.iterdir()] == ["fixed-performance"]
    assert (kept / "fixed-performance").read_text() == "false\n"
    assert phone.is_idle(device.workdir, 15.0)
    assert replace(device, cores="mid").pinned == (4, 5, 6)
