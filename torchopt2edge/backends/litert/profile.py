"""Where the time of one inference goes in LiteRT, operator by operator, inside XNNPACK too.

LiteRT's Python API has no profiler, its C API has: this file calls that by ctypes, in the
process of the runner, which may die of it without taking more along.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.errors import LowerError

Array = np.ndarray[Any, Any]
Op = dict[str, Any]

# Constants of litert/c: litert_environment_options.h, litert_any.h, litert_common.h.
_AUTO_REGISTER, _INT, _CPU = 24, 2, 1
_WRITE = 1  # kLiteRtTensorBufferLockModeWrite
_RANKED_TENSOR_TYPE = 512  # bytes; the real struct is smaller
_WARM = 5
_ROW = re.compile(
    r"^\s*(?P<type>\S.*?)\s+[\d.]+\s+[\d.]+\s+(?P<ms>[\d.]+)\s+[\d.]+%\s+[\d.]+%\s+\S+\s+"
    r"(?P<times>\d+)\s+(?P<name>\S.*?)\s*$"
)


class _Value(ctypes.Union):
    _fields_ = (("integer", ctypes.c_int64), ("pointer", ctypes.c_void_p))


class _Any(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("value", _Value))


class _Option(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_int), ("value", _Any))


def profile(file: Path, threads: int, arrays: Mapping[str, Array], runs: int) -> list[Op]:
    """Return ``{name, type, ms}`` of every operator, means over ``runs``, the costliest first.

    ``ms`` is per inference; a type that begins with ``Delegate/`` ran inside XNNPACK. The clock
    counts whole microseconds, so what is faster shows as 0.

    Raises:
        LowerError: this LiteRT has no profiler, or cannot run the file.
    """
    model = _Model(file, threads)
    model.fill(arrays)
    for _ in range(_WARM):
        model.run()
    return table(model.profiled(runs), runs)


def table(text: str, runs: int) -> list[Op]:
    """Read the operators off LiteRT's profile summary, from its part "Run Order"."""
    found: dict[tuple[str, str], float] = {}
    part = text.partition("Run Order")[2].partition("Top by Computation Time")[0]
    for line in part.splitlines():
        match = _ROW.match(line)
        if match is not None:
            key = match["name"], match["type"]
            spent = float(match["ms"]) * int(match["times"]) / runs
            found[key] = found.get(key, 0.0) + spent
    ops = [{"name": name, "type": kind, "ms": ms} for (name, kind), ms in found.items()]
    return sorted(ops, key=lambda op: -op["ms"])


class _Model:
    """A compiled model with its tensor buffers; it lives as long as its process."""

    def __init__(self, file: Path, threads: int) -> None:
        self._lib = _library()
        self._env, self._model, self._compiled = (ctypes.c_void_p() for _ in range(3))
        option = _Option(_AUTO_REGISTER, _Any(_INT, _Value(integer=_CPU)))
        self._do("CreateEnvironment", 1, ctypes.byref(option), ctypes.byref(self._env))
        path = str(file).encode()
        self._do("CreateModelFromFile", self._env, path, ctypes.byref(self._model))
        made = self._options(threads)
        self._do("CreateCompiledModel", self._env, self._model, made, ctypes.byref(self._compiled))
        self._signature = ctypes.c_void_p()
        self._do("GetModelSignature", self._model, ctypes.c_size_t(0), self._out("_signature"))
        self._inputs, self._outputs = self._buffers("Input"), self._buffers("Output")

    def fill(self, arrays: Mapping[str, Array]) -> None:
        """Write the inputs, in the order of the signature (``arrays`` has that order)."""
        ordered = _ordered(self._inputs, arrays)
        for at, buffer in enumerate(self._inputs.values()):
            array = ordered[at]
            place = ctypes.c_void_p()
            self._do("LockTensorBuffer", buffer, ctypes.byref(place), _WRITE)
            ctypes.memmove(place, array.tobytes(), array.nbytes)
            self._do("UnlockTensorBuffer", buffer)

    def run(self) -> None:
        """Run one inference."""
        given, made = (_pointers(one) for one in (self._inputs, self._outputs))
        counts = ctypes.c_size_t(len(given)), ctypes.c_size_t(len(made))
        none = ctypes.c_size_t(0)
        self._do("RunCompiledModel", self._compiled, none, counts[0], given, counts[1], made)

    def profiled(self, runs: int) -> str:
        """Run ``runs`` inferences under the profiler and return its summary."""
        profiler, text = ctypes.c_void_p(), ctypes.c_char_p()
        self._do("CompiledModelGetProfiler", self._compiled, ctypes.byref(profiler))
        if not profiler:
            raise LowerError("this LiteRT has no profiler", hint="bench.profile=false")
        self._do("StartProfiler", profiler)
        for _ in range(runs):
            self.run()
        self._do("StopProfiler", profiler)
        self._do("GetProfileSummary", profiler, self._compiled, ctypes.byref(text))
        return (text.value or b"").decode(errors="replace")

    def _options(self, threads: int) -> ctypes.c_void_p:
        made, libc = ctypes.c_void_p(), ctypes.CDLL(None)
        libc.strdup.restype = ctypes.c_void_p
        free = ctypes.cast(libc.free, ctypes.c_void_p)
        self._do("CreateOptions", ctypes.byref(made))
        self._do("SetOptionsHardwareAccelerators", made, _CPU)
        for name, payload in (
            (b"xnnpack", f"num_threads = {threads}\n".encode()),
            (b"runtime_options_string", b"enable_profiling = true\n"),
        ):
            one, held = ctypes.c_void_p(), ctypes.c_void_p(libc.strdup(payload))
            self._do("CreateOpaqueOptions", name, held, free, ctypes.byref(one))
            self._do("AddOpaqueOptions", made, one)
        return made

    def _buffers(self, kind: str) -> dict[str, ctypes.c_void_p]:
        """Make the buffers of one end, by the signature's names."""
        count, none = ctypes.c_size_t(), ctypes.c_size_t(0)
        self._do(f"GetNumSignature{kind}s", self._signature, ctypes.byref(count))
        made = {}
        for at in range(count.value):
            place, name = ctypes.c_size_t(at), ctypes.c_char_p()
            tensor, needs, buffer = (ctypes.c_void_p() for _ in range(3))
            shape = (ctypes.c_byte * _RANKED_TENSOR_TYPE)()
            self._do(f"GetSignature{kind}Name", self._signature, place, ctypes.byref(name))
            ends = self._signature, place, ctypes.byref(tensor)
            self._do(f"GetSignature{kind}TensorByIndex", *ends)
            self._do("GetRankedTensorType", tensor, shape)
            asked = self._compiled, none, place, ctypes.byref(needs)
            self._do(f"GetCompiledModel{kind}BufferRequirements", *asked)
            given = self._env, shape, needs, ctypes.byref(buffer)
            self._do("CreateManagedTensorBufferFromRequirements", *given)
            made[(name.value or b"").decode()] = buffer
        return made

    def _out(self, name: str) -> Any:
        return ctypes.byref(getattr(self, name))

    def _do(self, name: str, *given: Any) -> None:
        status = getattr(self._lib, f"LiteRt{name}")(*given)
        if status:
            raise LowerError(f"LiteRt{name} failed with status {status}")


def _ordered(names: Mapping[str, Any], arrays: Mapping[str, Array]) -> list[Array]:
    """Return the arrays by name, or in their own order where the names are others."""
    if set(names) == set(arrays):
        return [arrays[name] for name in names]
    return list(arrays.values())


def _pointers(buffers: Mapping[str, ctypes.c_void_p]) -> Any:
    return (ctypes.c_void_p * len(buffers))(*(buffer.value for buffer in buffers.values()))


def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("ai_edge_litert")
    places = (spec.submodule_search_locations if spec else None) or []
    found = [file for place in places for file in Path(place).glob("libLiteRt.so")]
    if not found:
        raise LowerError("this LiteRT has no C library beside it", hint="bench.profile=false")
    return ctypes.CDLL(str(found[0]))
