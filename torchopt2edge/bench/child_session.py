"""A candidate opened in a process of its own: a runtime that crashes takes only that along.

At the other end of a link, what a call needs is brought there in few frames: samples are stacked,
however few the file takes at once (the runner cuts them into pieces), and what is large goes by way
of files that the device keeps, so that it travels once for all candidates that take those bytes.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from torchopt2edge.backends.file_session import FileSession
from torchopt2edge.bench import answers
from torchopt2edge.bench.answers import Round as Round
from torchopt2edge.bench.batching import each
from torchopt2edge.deploy.launch import launch
from torchopt2edge.devices.remote.device import Remote
from torchopt2edge.errors import BenchError, DataError
from torchopt2edge.interfaces import Device, Job
from torchopt2edge.runner.frames import encode
from torchopt2edge.types import Candidate, Facts, Signature, TensorSpec

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Push = Callable[[Path], str]

INLINE = 256 << 10
"""Bytes of samples up to which they travel within the command itself."""

CHUNK = 16 << 20
"""Bytes of samples that one file holds at most, unless a single piece is larger."""


class ChildSession:
    """An `interfaces.Session` whose file is open in a child process; made by `open_child`.

    Every method raises `BenchError` when the child crashes, hangs or answers with an error.
    ``push`` brings a file to where the child runs; None when that is here.
    """

    def __init__(
        self, candidate: Candidate, job: Job, timeout_s: float, push: Push | None = None
    ) -> None:
        self._candidate = candidate
        self._job = job
        self._timeout_s = timeout_s
        self._push = push
        self._ends = FileSession(candidate.signature, self._run)
        self._size = None if push is None else batch_of(candidate.signature)
        self._calls = (
            self._ends
            if self._size is None
            else FileSession(
                stacked(candidate.signature), functools.partial(self._run_pieces, size=self._size)
            )
        )
        self.receipt: Facts = {}
        self.times: dict[str, float] = {}

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs' names, in order."""
        return self._ends.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return self._ends.output_names

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run on source arrays of any batch."""
        return self._calls(inputs)

    def each(
        self, items: Iterable[tuple[Mapping[str, Array], T]]
    ) -> Iterator[tuple[dict[str, Array], Mapping[str, Array], T]]:
        """Walk batches and what goes along, each with its answer; many travel at once (`each`)."""
        return each(self, items, CHUNK)

    def joins(self, size: int) -> bool:
        """Whether batches of that many samples can travel together and be run as one by one."""
        return self._size is not None and size % max(self._size, 1) == 0

    def run_stacked(self, inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
        """Run stacked batches, of ``size`` samples each where the file takes any number."""
        run = functools.partial(self._run_pieces, size=self._size or size)
        return FileSession(stacked(self._candidate.signature), run)(inputs)

    def _run(
        self, arrays: Mapping[str, Array], pieces: int = 1, samples: int = 1
    ) -> dict[str, Array]:
        header: dict[str, Any] = {"cmd": "call"}
        if pieces > 1:
            header["pieces"] = pieces
        sent: Mapping[str, Array] | None = arrays
        if self._push is not None and _bytes(arrays) > INLINE:
            header["file"], sent = bring(arrays, self._push), None
        event, found = self._ask("called", header, sent, patience_s=float(samples))
        return self._checked(answers.called, event, found, self._candidate.signature)

    def _run_pieces(self, arrays: Mapping[str, Array], size: int) -> dict[str, Array]:
        """Run stacked samples, ``size`` at once, in chunks that neither end finds too large."""
        found = [self._run_chunk(chunk, pieces) for chunk, pieces in chunks(arrays, size)]
        if len(found) == 1:
            return found[0]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _run_chunk(self, chunk: Mapping[str, Array], pieces: int) -> dict[str, Array]:
        samples = len(next(iter(chunk.values())))
        found = self._run(chunk, pieces, samples)
        for name, value in found.items():
            if not value.ndim or len(value) != samples:
                raise self._error(f"the output {name!r} is not one of {samples} samples")
        return found

    def open(self, file: str, threads: int, library: str | None = None) -> None:
        """Open the file (paths are the device's); keep the receipt and what the start took.

        ``library`` is the runtime's, for a runner that loads it by its path. ``times`` holds
        ``library_ms``, ``import_ms`` and ``load_ms``, those that this runner has.
        """
        header: dict[str, Any] = {
            "cmd": "open",
            "backend": self._candidate.backend,
            "target": self._candidate.facts.get("target"),
            "options": self._candidate.facts.get("options", {}),
            "file": file,
            "signature": self._candidate.signature.to_json(),
            "threads": threads,
            "library": library,
        }
        event, _ = self._ask("opened", header)
        self.receipt, self.times = self._checked(answers.opened, event)

    def load_timed(self, inputs: Mapping[str, Array]) -> float:
        """Hand over the timed sample, return the milliseconds of the first inference.

        Raises:
            BenchError: its outputs hold NaN or infinity.
        """
        prepared, begin = self._ends.prepare(inputs), time.monotonic()
        event, _ = self._ask("loaded", {"cmd": "load"}, prepared)
        took_ms = (time.monotonic() - begin) * 1e3
        first_ms, finite = self._checked(answers.loaded, event, took_ms)
        if not finite:
            raise self._error("the outputs hold NaN or infinity")
        return first_ms

    def round(
        self, min_samples: int, seconds: float, max_samples: int, patience_s: float = 0.0
    ) -> Round:
        """Time one round; ``patience_s`` is how long it may take beyond the usual time-out.

        Raises:
            BenchError: its last outputs are not those of the first inference, or the clock there
                is too coarse to show any time.
        """
        command = {
            "cmd": "round",
            "min_samples": min_samples,
            "seconds": seconds,
            "max_samples": max_samples,
        }
        event, _ = self._ask("round", command, patience_s=seconds + patience_s)
        found = self._checked(answers.timed, event, max_samples)
        if not found.finite:
            raise self._error("the outputs became NaN or infinity in the middle of the run")
        if not found.stable:
            raise self._error("the same input gave other outputs than in the first inference")
        if not found.latency_ns or np.median(found.latency_ns) <= 0:
            raise BenchError(
                "most inferences took no time by the device's clock, which is too coarse for them",
                artifact=self._candidate.id,
                hint="export the model with a larger batch, so that one inference takes longer",
            )
        return found

    def profile(self, runs: int) -> list[Facts]:
        """Return ``{name, type, ms}`` of every operator of the file (Python runner only)."""
        event, _ = self._ask("profiled", {"cmd": "profile", "runs": runs}, patience_s=60.0)
        return self._checked(answers.profiled, event)

    def sense(self) -> Facts:
        """Return one sample of the device's sensors."""
        event, _ = self._ask("sensed", {"cmd": "sense"})
        return self._checked(answers.sensed, event)

    def stop(self) -> int:
        """End the runner in peace and return its peak resident bytes (-1: unknown)."""
        event, _ = self._ask("stopped", {"cmd": "stop"})
        return self._checked(answers.stopped, event)

    def _ask(
        self,
        wanted: str,
        header: Mapping[str, Any],
        arrays: Mapping[str, Array] | None = None,
        patience_s: float = 0.0,
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            self._job.send(header, arrays, self._timeout_s)
            return self._job.receive(self._timeout_s + patience_s)
        except BenchError as error:
            raise BenchError(error.what, artifact=self._candidate.id, hint=error.hint) from error

    def _checked(self, read: Callable[..., T], *given: object) -> T:
        """Read an answer (`answers`); what is wrong with it is said of the candidate."""
        try:
            return read(*given)
        except BenchError as error:
            raise self._error(error.what) from error

    def _error(self, what: str) -> BenchError:
        return BenchError(what, artifact=self._candidate.id)


def batch_of(signature: Signature) -> int | None:
    """Return how many samples the file takes at once: 0 any number, None when that is not told.

    It is told where the first axis of every end counts the samples, in the file as well.
    """
    ends = (*signature.inputs, *signature.outputs)
    if not all(spec.shape and (spec.perm is None or spec.perm[0] == 0) for spec in ends):
        return None
    sizes = {spec.shape[0] for spec in ends}
    if sizes == {-1}:
        return 0
    taken = {spec.shape[0] for spec in signature.inputs}
    return taken.pop() if len(taken) == 1 and sizes <= taken | {-1} and min(taken) > 0 else None


def stacked(signature: Signature) -> Signature:
    """Return the signature of the same file for any number of samples."""

    def free(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=(-1, *spec.shape[1:])) for spec in specs)

    return replace(signature, inputs=free(signature.inputs), outputs=free(signature.outputs))


def chunks(arrays: Mapping[str, Array], size: int) -> Iterator[tuple[dict[str, Array], int]]:
    """Walk stacked samples in chunks of at most `CHUNK` bytes, each with its number of pieces.

    A piece is ``size`` samples; a file that takes any number (0) runs a chunk as one piece.

    Raises:
        DataError: the samples do not fill the pieces.
    """
    count = len(next(iter(arrays.values())))
    step = max(size, 1)
    if not count or count % step or any(len(value) != count for value in arrays.values()):
        raise DataError(
            f"{count} samples cannot be run by a file that takes {step} at once",
            hint="give every input the same number of samples, a multiple of that",
        )
    most = max(1, CHUNK * count // (max(_bytes(arrays), 1) * step)) * step
    for at in range(0, count, most):
        chunk = {name: value[at : at + most] for name, value in arrays.items()}
        yield chunk, min(most, count - at) // size if size else 1


def bring(arrays: Mapping[str, Array], push: Push) -> str:
    """Bring arrays to a device as a file that holds one frame; return its path there.

    Its name is made of its content: the same arrays are found there again.

    Raises:
        BenchError: the file cannot be written here.
        DeviceError: it cannot be brought there.
    """
    body = encode({}, arrays)
    name = f"samples-{hashlib.sha256(body).hexdigest()[:16]}.frame"
    try:
        with tempfile.TemporaryDirectory(prefix="t2e-") as folder:
            file = Path(folder) / name
            file.write_bytes(body)
            return push(file)
    except OSError as error:
        raise BenchError(
            f"samples cannot be kept on their way: {error.strerror or error}",
            artifact=tempfile.gettempdir(),
            hint="free some space there, or point TMPDIR at a folder that has some",
        ) from error


def _bytes(arrays: Mapping[str, Array]) -> int:
    return sum(value.nbytes for value in arrays.values())


@contextmanager
def open_child(
    candidate: Candidate, device: Device, log: Path, timeout_s: float = 120.0
) -> Iterator[ChildSession]:
    """Open a candidate in a fresh process on a device; leaving the block ends the process.

    ``timeout_s`` is the patience for each answer; stderr of the process goes to ``log``.

    Raises:
        BenchError: the child crashes, hangs or cannot open the file.
        DeviceError: the device cannot start it.
    """
    device = as_set(device, candidate)
    what = launch(candidate, device)
    job = device.start(what.argv, log)
    try:
        push = device.push if isinstance(device, Remote) else None
        session = ChildSession(candidate, job, timeout_s, push)
        session.open(device.push(candidate.file), device.threads, what.library)
        yield session
    finally:
        job.close()


def as_set(device: Device, candidate: Candidate) -> Device:
    """Return the device with the threads and cores that the candidate is to run with."""
    setting = candidate.facts.get("setting")
    return replace(device, **setting) if setting else device  # type: ignore[type-var]
