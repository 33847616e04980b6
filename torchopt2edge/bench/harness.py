"""Times candidates against each other on one device and returns a row for each.

The six rules, cited in the code:

1. Rounds, in turns: every candidate once per round, in an order shuffled by a seeded generator;
   a cool-down gate between rounds. A protocol without turns asks what heat does to each file
   alone: one after the other, each from cool, and the first again in between (the anchor), so
   that a drift of the machine is known and no difference within it is taken for one.
2. The unit of statistics is the round.
3. No check, no number: outputs are compared within the run, and with the caller's reference.
4. No receipt, no number.
5. Every sample is kept.
6. A tie is an answer, and an invalid run names no winner (`flags` lists the flags, `verdict.decide`
   applies them).

A candidate that fails in any way becomes a row with ``err``; the others go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.bench.child_session import ChildSession, Round, open_child
from torchopt2edge.bench.device_monitor import joined, series, steady, temperature
from torchopt2edge.bench.measurement import failed, measured
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.errors import BenchError, ConfigError, EdgeError
from torchopt2edge.interfaces import Device, Session, Watch
from torchopt2edge.stats.rounds import is_flat
from torchopt2edge.types import Candidate, Facts, Measurement

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int, str], None]
Sample = Callable[[Candidate], Mapping[str, Array]]
Check = Callable[[Candidate, Session], str | None]

_COOL_C = 2.0
_WARMUP_CHUNKS = 20
_ASKED = (
    "device_threads",
    "device_affinity",
)  # what was asked of the device; a row has what it got


@dataclass
class Lane:
    """One candidate while it is being measured; ``err`` takes it out of the race."""

    candidate: Candidate
    closing: contextlib.ExitStack
    session: ChildSession | None = None
    rounds: list[Round] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    facts: Facts = field(default_factory=dict)
    first_ms: float = 0.0
    anchors: list[float] = field(default_factory=list)
    err: str | None = None
    watch: Watch | None = None

    def attempt(self, act: Callable[[Lane, ChildSession], None]) -> None:
        """Do something with the open session; our errors end this lane and no other."""
        if self.err is not None or self.session is None:
            return
        try:
            act(self, self.session)
        except EdgeError as error:
            self.fail(str(error))

    def fail(self, err: str) -> None:
        """End this lane and its process."""
        self.err = err
        self.closing.close()


@dataclass(frozen=True)
class Race:
    """What all candidates of one run share."""

    device: Device
    protocol: TimingPlan
    sample: Sample
    work: Path
    progress: Progress

    def enter(self, lane: Lane) -> None:
        """Open a candidate in a fresh process and run its first inference."""
        candidate = lane.candidate
        try:
            lane.facts["file_sha256"] = _digest(candidate.file)  # also warms the page cache
            lane.session = lane.closing.enter_context(self._child(candidate, candidate.id))
            lane.first_ms = lane.session.load_timed(self.sample(candidate))
        except EdgeError as error:
            lane.fail(str(error))

    def prime(self, candidates: Sequence[Candidate]) -> None:
        """Open one file per runtime and throw it away, so that nobody pays for a cold cache."""
        first = {candidate.backend: candidate for candidate in reversed(candidates)}
        for candidate in first.values() if self.protocol.prime else ():
            # What fails here fails again under its own name in `enter`.
            with contextlib.suppress(EdgeError), self._child(candidate, f"prime-{candidate.id}"):
                pass

    def warm_up(self, lane: Lane, session: ChildSession) -> None:
        """Run until the medians of short rounds are flat, at most ``warmup_max_s``."""
        limit = self.protocol.warmup_max_s
        medians: list[float] = []
        begin = time.monotonic()
        while time.monotonic() - begin < limit and not is_flat(medians):
            one = session.round(
                1, limit / _WARMUP_CHUNKS, self.protocol.round_max_samples, lane.first_ms / 100
            )
            medians.append(float(np.median(one.latency_ns)))
        lane.facts["warmup_s"] = round(time.monotonic() - begin, 3)
        lane.facts["warmup_flat"] = is_flat(medians)

    def anchor(self, lane: Lane, session: ChildSession) -> None:
        """Time one round more, only to know whether the machine is still as fast."""
        plan = self.protocol
        patience = plan.round_samples * lane.first_ms / 100
        one = session.round(plan.round_samples, plan.round_seconds, plan.max_samples, patience)
        lane.anchors.append(float(np.median(one.latency_ns)))

    def turn(self, lane: Lane, session: ChildSession) -> None:
        """Time one round of one candidate (rule 5: its samples are kept as they are)."""
        plan = self.protocol
        patience = plan.round_samples * lane.first_ms / 100  # ten times what it should take
        lane.rounds.append(
            session.round(plan.round_samples, plan.round_seconds, plan.round_max_samples, patience)
        )
        lane.heard.append(time.monotonic())

    def _child(
        self, candidate: Candidate, name: str
    ) -> contextlib.AbstractContextManager[ChildSession]:
        log = self.work / "logs" / f"{name.replace('/', '_')}.log"
        return open_child(candidate, self.device, log, self.protocol.timeout_s)


def measure(
    candidates: Sequence[Candidate],
    sample: Sample,
    device: Device,
    protocol: TimingPlan,
    work: Path,
    progress: Progress | None = None,
    check: Check | None = None,
) -> list[Measurement]:
    """Return one row per candidate, in the order given.

    ``sample`` gives a candidate its timed sample (batch 1) in its source model's names, dtypes
    and layout; logs of the processes go under ``work``. ``progress`` is told (done, total, what
    now). ``check`` gets every candidate with its still open session after its last round and
    returns what is wrong with its outputs, or None; peak memory is read before it.

    Raises:
        ConfigError: two candidates share an id, or the protocol cannot give an interval.
        DeviceError: the device cannot be used at all.
        Interrupted: Ctrl-C, with the rows as far as they came.
    """
    protocol.check()
    ids = [candidate.id for candidate in candidates]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"candidates share an id: {sorted(ids)}", hint="give each its own label")
    race = Race(device, protocol, sample, work, progress or _silent)
    with contextlib.ExitStack() as closing:  # an interrupt in here leaves no process behind
        watch = closing.enter_context(steady(device))
        lanes = [_lane(candidate, closing, watch) for candidate in candidates]
        order = "turns" if protocol.turns else "blocks"
        machine = {name: value for name, value in device.facts().items() if name not in _ASKED}
        machine |= {"run": uuid.uuid4().hex, "order": order, "load_before": machine.get("load")}
        machine |= {} if watch is None else watch.facts()
        try:
            _run(race, lanes)
        except KeyboardInterrupt as stop:
            ended = [_finish(race, lane, machine, None) for lane in lanes]
            rows = [replace(row, facts={**row.facts, "interrupted": True}) for row in ended]
            raise Interrupted(rows) from stop
        machine |= {**_after(machine, device.facts()), **_common(lanes)}
        _add_moments(lanes, watch, machine.get("zero_ns", 0))
        return [_finish(race, lane, machine, check) for lane in lanes]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a run; ``rows`` are what was measured until then."""

    def __init__(self, rows: list[Measurement]) -> None:
        super().__init__()
        self.rows = rows


def _common(lanes: Sequence[Lane]) -> Facts:
    """Return what a row needs to know of the others: the run's begin, and the anchor's spread."""
    begins = [lane.rounds[0].begin_ns for lane in lanes if lane.rounds]
    found: Facts = {"zero_ns": min(begins)} if begins else {}
    anchors = next((lane.anchors for lane in lanes if lane.anchors), [])
    if len(anchors) > 1:
        found["anchor_spread"] = (max(anchors) - min(anchors)) / float(np.median(anchors))
    return found


def _after(before: Facts, now: Facts) -> Facts:
    """Return how busy the device was at the end, or at either end with jobs of others."""
    others = [one["other_jobs"] for one in (before, now) if isinstance(one.get("other_jobs"), int)]
    return {"load_after": now.get("load"), **({"other_jobs": max(others)} if others else {})}


def _lane(candidate: Candidate, closing: contextlib.ExitStack, watch: Watch | None) -> Lane:
    own = closing.enter_context(contextlib.ExitStack())
    return Lane(candidate, own, watch=watch)


def _add_moments(lanes: Sequence[Lane], watch: Watch | None, zero_ns: int) -> None:
    """Give each lane what the device's own watch saw, and each round what it saw at its end."""
    moments = [] if watch is None else watch.moments()
    for lane in lanes:
        seen = series(lane.rounds, lane.heard, moments, zero_ns)
        lane.facts |= {"watched": seen} if seen else {}
        lane.rounds = joined(lane.rounds, lane.heard, moments)


def _run(race: Race, lanes: Sequence[Lane]) -> None:
    """Open, warm up and time all lanes (rule 1)."""
    total = len(lanes) * (race.protocol.rounds + 1)
    race.prime([lane.candidate for lane in lanes])
    for done, lane in enumerate(lanes):
        race.progress(done, total, f"opening {lane.candidate.id}")
        race.enter(lane)
    start = _temperature(lanes)
    if race.protocol.turns:
        _turns(race, lanes, start)
    else:
        _blocks(race, lanes, start)
    race.progress(total, total, "timed")


def _blocks(race: Race, lanes: Sequence[Lane], start: float | None) -> None:
    """Time one lane after the other, each from cool and each with the anchor before it."""
    total, done = len(lanes) * (race.protocol.rounds + 1), len(lanes)
    for number, lane in enumerate(lanes):
        waited = _cool_down(lanes, start, race.protocol) if number else 0.0
        lane.facts["cooldown_s"] = round(waited, 3)
        _first_alive(lanes, race.anchor)
        lane.attempt(race.warm_up)
        for at in range(race.protocol.rounds):
            race.progress(done, total, f"{lane.candidate.id}: window {at + 1}")
            lane.attempt(race.turn)
            done += 1
    _cool_down(lanes, start, race.protocol)
    _first_alive(lanes, race.anchor)


def _first_alive(lanes: Sequence[Lane], act: Callable[[Lane, ChildSession], None]) -> None:
    for lane in lanes:
        if lane.err is None:
            lane.attempt(act)
            return


def _turns(race: Race, lanes: Sequence[Lane], start: float | None) -> None:
    """Time every lane once a round."""
    total, done = len(lanes) * (race.protocol.rounds + 1), len(lanes)
    for lane in lanes:
        lane.attempt(race.warm_up)
    shuffler = random.Random(race.protocol.seed)
    for number in range(race.protocol.rounds):
        waited = _cool_down(lanes, start, race.protocol) if number else 0.0
        for lane in shuffler.sample(lanes, len(lanes)):
            race.progress(done, total, f"round {number + 1}: {lane.candidate.id}")
            lane.attempt(race.turn)
            lane.facts["cooldown_s"] = round(lane.facts.get("cooldown_s", 0.0) + waited, 3)
            done += 1


def _finish(
    race: Race, lane: Lane, surroundings: Mapping[str, Any], check: Check | None
) -> Measurement:
    """Check a lane's outputs (rule 3), end its process and make its row."""
    if check is not None:
        lane.attempt(lambda lane, session: _check(check, lane, session))
    receipt: Facts = {**lane.facts, **surroundings}
    if lane.session is not None:
        receipt = {**surroundings, **lane.session.receipt, **receipt}
    lane.closing.close()
    if not lane.rounds and lane.err is None:
        lane.err = "interrupted before its first round"
    if lane.err is not None or lane.session is None:
        return failed(lane.candidate, race.device.name, race.protocol.name, receipt, lane.err)
    times = {
        **lane.session.times,
        "first_ms": lane.first_ms,
    }
    try:
        return measured(
            lane.candidate, race.device.name, race.protocol, lane.rounds, times, receipt
        )
    except EdgeError as error:  # the file went away meanwhile
        return failed(lane.candidate, race.device.name, race.protocol.name, receipt, str(error))


def _check(check: Check, lane: Lane, session: ChildSession) -> None:
    wrong = check(lane.candidate, session)
    if wrong is not None:
        raise BenchError(wrong, artifact=lane.candidate.id)


def _temperature(lanes: Sequence[Lane]) -> float | None:
    """Return the device's temperature: by its own watch, else through a process that lives."""
    told, degrees = temperature(lanes[0].watch if lanes else None)
    if told:
        return degrees
    for lane in lanes:
        if lane.err is None and lane.session is not None:
            try:
                found = lane.session.sense()["temperature_c"]
            except EdgeError as error:
                lane.fail(str(error))
                continue
            return float(found) if isinstance(found, int | float) else None
    return None


def _cool_down(lanes: Sequence[Lane], start: float | None, plan: TimingPlan) -> float:
    """Wait until the device is as cool as at the start, or for ``rest_s`` where no sensor tells.

    Returns the seconds waited.
    """
    begin, limit_s = time.monotonic(), plan.cooldown_s
    if start is None:
        time.sleep(plan.rest_s)
    while start is not None and time.monotonic() - begin < limit_s:
        now = _temperature(lanes)
        if now is None or now <= start + _COOL_C:
            break
        time.sleep(min(1.0, limit_s))
    return time.monotonic() - begin


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(
            f"the file cannot be read: {error.strerror or error}", artifact=file
        ) from error


def _silent(done: int, total: int, what: str) -> None:
    """Say nothing."""
