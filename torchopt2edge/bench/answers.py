"""What a runner answers, checked: the one place where its frames' headers become values.

A runner is a process of its own, here, on a board, on a phone or in a page, with a file in it that
may be a stranger's. Nothing that it says is trusted: a field has its type and its bounds, a list
its length, a text is printable, a name of the receipt or of a sensor is one of a list. What goes
beyond that is a `BenchError`; what a runner may leave out has its default. How frames themselves
are bounded says `frames`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchopt2edge.devices.answers import clean
from torchopt2edge.errors import BenchError
from torchopt2edge.types import Facts, Signature, TensorSpec

Array = np.ndarray[Any, Any]

_LARGEST = 1 << 62  # of whole numbers: the nanoseconds of a century
_LONGEST_MS = 1e8
_LONGEST_NS = 1 << 42  # of one inference: over an hour
_SAID = 4000  # characters of an error
_MOST_ITEMS, _MOST_FACTS, _MOST_OPS = 4096, 64, 50_000

_RECEIPT = frozenset(
    {"affinity", "arch", "arena", "bytes_before_import", "clocksource", "compiler", "cores", "cpu",
     "cpu_flags", "cross_origin_isolated", "delegate", "denormals", "emulated", "governor",
     "graph_optimization", "kernel", "load", "memory_gb", "mode", "numpy", "os", "provider",
     "python", "runner", "runner_version", "runtime", "runtime_version", "spinning", "steal",
     "threads", "timer_resolution_ns", "torch_imported", "user_agent"}
)  # fmt: skip
_SENSORS = frozenset(
    {"capped", "clock_cap_mhz", "clock_mhz", "energy_j", "load", "power_w", "temperature_c",
     "under_voltage"}
)  # fmt: skip
_YES_OR_NO = frozenset({"capped", "under_voltage"})
_UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Round:
    """What one round gave: nanoseconds per inference, and what happened around them.

    ``begin_ns`` is the device's monotonic clock at its begin; ``involuntary`` counts context
    switches against the process's will; ``steal`` of ``ticks`` is what a hypervisor took (0 of 0
    when unknown); ``joules`` what the whole processor used, None when it does not say;
    ``peak_bytes`` is VmHWM so far.
    """

    latency_ns: list[int]
    wall_ns: int
    cpu_ns: int
    involuntary: int
    stable: bool
    finite: bool
    peak_bytes: int
    begin_ns: int = 0
    joules: float | None = None
    steal: int = 0
    ticks: int = 0
    sensors: Facts = field(default_factory=dict)


class Answer:
    """One answer's header, whose fields are read with a type and bounds.

    Raises (when made): `BenchError`, when it is an error of the runner's, or another event.
    """

    def __init__(self, header: Mapping[str, Any], wanted: str) -> None:
        self._header = header
        self._wanted = wanted
        told = header.get("event")
        if told == "error":
            raise BenchError(f"{self.text('type')}: {self.text('what')}")
        if told != wanted:
            raise BenchError(f"the runner answered {_shown(told)}, not {wanted!r}")

    def text(self, name: str) -> str:
        """Return a text, printable and of a length that can be shown."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self._unfit(name)
        return clean(value, _SAID)

    def flag(self, name: str) -> bool:
        """Return yes or no."""
        value = self._value(name)
        if not isinstance(value, bool):
            raise self._unfit(name)
        return value

    def whole(self, name: str, least: int = 0, default: int | None = None) -> int:
        """Return a whole number, ``default`` where the answer may lack it and does."""
        if default is not None and self._header.get(name) is None:
            return default
        value = self._value(name)
        if type(value) is not int or not least <= value <= _LARGEST:
            raise self._unfit(name)
        return value

    def real(self, name: str, most: float = math.inf) -> float:
        """Return a number that is finite and not negative."""
        value = self._value(name)
        if not is_number(value) or not 0.0 <= value <= most:
            raise self._unfit(name)
        return float(value)

    def maybe(self, name: str, most: float = math.inf) -> float | None:
        """Return such a number, None where the answer has none."""
        return None if self._header.get(name) is None else self.real(name, most)

    def facts(self, name: str) -> Mapping[str, Any]:
        """Return an object whose names are to be checked yet."""
        value = self._value(name)
        if not isinstance(value, dict) or len(value) > _MOST_FACTS:
            raise self._unfit(name)
        return value

    def latencies(self, name: str, most: int) -> list[int]:
        """Return nanoseconds, ``most`` of them at most."""
        value = self._value(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._unfit(name)
        try:
            found = np.array(value or np.zeros(0, np.int64))
        except ValueError as error:  # lists of several lengths
            raise self._unfit(name) from error
        if found.ndim != 1 or found.dtype != np.int64 or _outside(found):
            raise self._unfit(name)
        return [int(one) for one in found.tolist()]

    def operators(self, name: str) -> list[Facts]:
        """Return ``{name, type, ms}`` of operators."""
        value = self._value(name)
        if not isinstance(value, list) or len(value) > _MOST_OPS:
            raise self._unfit(name)
        return [self._operator(one, name) for one in value]

    def _operator(self, one: object, name: str) -> Facts:
        if not isinstance(one, dict) or not is_number(one.get("ms")) or one["ms"] < 0:
            raise self._unfit(name)
        words = {key: one.get(key) for key in ("name", "type")}
        if not all(isinstance(word, str) for word in words.values()):
            raise self._unfit(name)
        return {**{key: clean(str(word)) for key, word in words.items()}, "ms": float(one["ms"])}

    def _value(self, name: str) -> Any:
        if name not in self._header:
            raise BenchError(f"the runner's answer {_shown(self._header['event'])} lacks {name}")
        return self._header[name]

    def _unfit(self, name: str) -> BenchError:
        said = _shown(self._header[name])
        return BenchError(f"the runner's answer {self._wanted!r} has no usable {name}: {said}")


def opened(header: Mapping[str, Any]) -> tuple[Facts, dict[str, float]]:
    """Return the receipt, and the milliseconds of the start that this runner tells.

    A fact that is not one of ours (a backend of the user's) is kept as ``runner_NAME``: none
    takes the place of one that others write into a row.

    Raises:
        BenchError: it is another answer, or something in it is unfit.
    """
    answer = Answer(header, "opened")
    receipt: Facts = {}
    for name, value in answer.facts("receipt").items():
        if name.isidentifier() and name.isascii() and len(name) <= 48 and _is_plain(value):
            receipt[name if name in _RECEIPT else f"runner_{name}"] = _cleaned(value)
    if not is_number(receipt.get("timer_resolution_ns", 0)):
        del receipt["timer_resolution_ns"]
    times = {name: answer.maybe(name, _LONGEST_MS) for name in ("library_ms", "import_ms")}
    times["load_ms"] = answer.maybe("load_ms", _LONGEST_MS)
    return receipt, {name: ms for name, ms in times.items() if ms is not None}


def loaded(header: Mapping[str, Any], took_ms: float) -> tuple[float, bool]:
    """Return the milliseconds of the first inference, and whether its outputs are finite.

    ``took_ms`` is how long the answer took: what the next answers may take hangs on the first, so
    that it cannot have been much longer.

    Raises:
        BenchError: it is another answer, or something in it is unfit.
    """
    answer = Answer(header, "loaded")
    return answer.real("first_ms", took_ms + 60e3), answer.flag("finite")


def timed(header: Mapping[str, Any], most: int) -> Round:
    """Return a round of ``most`` inferences at most.

    Raises:
        BenchError: it is another answer, or something in it is unfit.
    """
    answer = Answer(header, "round")
    return Round(
        latency_ns=answer.latencies("latency_ns", max(most, 1)),
        wall_ns=max(1, answer.whole("wall_ns")),
        cpu_ns=answer.whole("cpu_ns", -1),
        involuntary=answer.whole("involuntary", -_LARGEST),
        stable=answer.flag("stable"),
        finite=answer.flag("finite"),
        peak_bytes=answer.whole("vm_hwm_bytes", -1),
        begin_ns=answer.whole("begin_ns", -_LARGEST, default=0),
        joules=answer.maybe("joules"),
        steal=answer.whole("steal", -_LARGEST, default=0),
        ticks=answer.whole("ticks", -_LARGEST, default=0),
        sensors=_sensors(answer) if header.get("sensors") is not None else {},
    )


def sensed(header: Mapping[str, Any]) -> Facts:
    """Return one sample of the sensors; a thermometer that is not told is "unavailable".

    Raises:
        BenchError: it is another answer, or something in it is unfit.
    """
    return {"temperature_c": _UNAVAILABLE, **_sensors(Answer(header, "sensed"))}


def profiled(header: Mapping[str, Any]) -> list[Facts]:
    """Return ``{name, type, ms}`` of every operator.

    Raises:
        BenchError: it is another answer, or something in it is unfit.
    """
    return Answer(header, "profiled").operators("ops")


def stopped(header: Mapping[str, Any]) -> int:
    """Return the runner's peak resident bytes, -1 where it does not know.

    Raises:
        BenchError: it is another answer, or something in it is unfit.
    """
    return Answer(header, "stopped").whole("vm_hwm_bytes", -1)


def called(
    header: Mapping[str, Any], arrays: Mapping[str, Array], signature: Signature
) -> dict[str, Array]:
    """Return the outputs of a call under the file's own names, in the signature's order.

    Raises:
        BenchError: it is another answer, or the outputs are not those of the signature.
    """
    Answer(header, "called")
    return {spec.file_name: _output(arrays.get(spec.file_name), spec) for spec in signature.outputs}


def _output(array: Array | None, spec: TensorSpec) -> Array:
    if array is None:
        raise BenchError(f"the runner's answer lacks the output {spec.file_name!r}")
    shape = spec.shape[1:] if spec.whole else spec.shape
    order = spec.perm or tuple(range(len(shape)))  # the file's axes, as those of the source
    free = None if spec.whole else 0  # how many samples is the caller's to say
    fits = array.ndim == len(order) and all(
        axis == free or shape[axis] in (-1, size)
        for axis, size in zip(order, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "biuf":
        raise BenchError(
            f"the output {spec.file_name!r} came as {array.dtype.name} {list(array.shape)}, and "
            f"the file gives {[shape[axis] for axis in order]}"
        )
    return array


def _sensors(answer: Answer) -> Facts:
    """Return the sensors of ours; one that shows neither a number nor a state is unavailable."""
    told = answer.facts("sensors")
    return {
        name: told[name] if _shows(name, told[name]) else _UNAVAILABLE
        for name in sorted(_SENSORS & told.keys())
    }


def _shows(name: str, value: object) -> bool:
    return isinstance(value, bool) if name in _YES_OR_NO else is_number(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and not one that stands for yes or no."""
    if type(value) is int:
        return abs(value) <= _LARGEST
    return type(value) is float and abs(value) <= _LARGEST  # NaN is not


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= _MOST_ITEMS and all(_is_scalar(one) for one in value)
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or is_number(value)


def _cleaned(value: Any) -> Any:
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    return clean(value) if isinstance(value, str) else value


def _outside(found: Array) -> bool:
    return bool(found.size) and not 0 <= int(found.min()) <= int(found.max()) <= _LONGEST_NS


def _shown(value: object) -> str:
    return clean(repr(value)[:80]) if isinstance(value, str | int | float | None) else "a list"
