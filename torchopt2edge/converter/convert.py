"""ONNX → float .tflite: one child in the sealed environment per conversion."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchopt2edge.converter.environment import INSTALL, Environment
from torchopt2edge.converter.graph import write_private_copy
from torchopt2edge.errors import ConverterError, StoreError
from torchopt2edge.stats import sqnr
from torchopt2edge.types import TensorSpec

_SCRIPTS = ("child", "names", "layout", "rewrite", "respell")
CHILD = (
    *(Path(__file__).with_name(f"{name}.py") for name in _SCRIPTS),
    Path(sqnr.__file__),
)
"""The scripts that run in the environment, and the module of the package that they import."""
MIN_PARITY_DB = 60.0
"""A float conversion reaches 95 dB and more on what a model is made for."""
_NOWHERE = "http://127.0.0.1:9"  # the discard port: whatever asks for the network fails at once
_QUOTED_LINES = 8


@dataclass(frozen=True)
class Conversion:
    """A float .tflite and how it relates to the ONNX it was made from.

    ``inputs`` and ``outputs`` are in the source's order, ``file_name`` being the name in the
    file's ``serving_default`` signature. ``parity_db`` is the worst float output's
    signal-to-noise ratio against ONNX Runtime on one random input (200 = equal to the bit).
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity_db: float
    versions: dict[str, str]
    seconds: float
    log: Path


def convert(
    model: Path,
    out: Path,
    *,
    env: Environment,
    timeout_s: float = 900,
    min_parity_db: float | None = MIN_PARITY_DB,
    log: Path | None = None,
) -> Conversion:
    """Convert the float ONNX ``model`` into the float TFLite file ``out``.

    The child works in a private folder on a copy with a batch of 1; what it printed is left in
    ``log``, by default ``converter.log`` beside ``out``. Any number of conversions may run at once.
    The file is held against the ONNX on one random input. Below ``min_parity_db`` it is refused;
    None leaves that to a caller who has real samples, since a model may be ill-conditioned on
    random ones.

    Raises:
        ConverterError: the graph is unfit, an operator cannot be lowered, the child took more
            than ``timeout_s`` seconds or was killed, or the file computes something else.
        StoreError: a file cannot be written.
    """
    log, started = log or out.with_name("converter.log"), time.monotonic()
    try:
        for place in (out, log):
            place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="torchopt2edge-", ignore_cleanup_errors=True) as to:
            work = Path(to)
            renamed = write_private_copy(model, work / "model.onnx")
            for script in CHILD:
                place = work / _place(script)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(script, place)
            try:
                status = _run(env, work, timeout_s)
            except subprocess.TimeoutExpired as error:
                raise _too_slow(model, timeout_s) from error
            finally:
                _publish(work / "log", log)
            result = _read_result(work, status, model, log, renamed)
            _require(result, min_parity_db, model, log)
            _publish(work / "float.tflite", out)
    except OSError as error:
        raise StoreError(
            f"The conversion cannot write its files: {error}",
            artifact=out,
            hint="make room there and in TMPDIR",
        ) from error
    return Conversion(
        path=out,
        inputs=tuple(TensorSpec.from_json(item) for item in result["inputs"]),
        outputs=tuple(TensorSpec.from_json(item) for item in result["outputs"]),
        parity_db=result["parity_db"],
        versions=result["versions"],
        seconds=time.monotonic() - started,
        log=log,
    )


def _require(
    result: Mapping[str, Any], min_parity_db: float | None, model: Path, log: Path
) -> None:
    """Refuse a file that computes something else."""
    if min_parity_db is not None and result["parity_db"] < min_parity_db:
        message = f"the outputs agree to {result['parity_db']:.0f} dB only"
        raise _failed({**result, "kind": "parity", "message": message, "node": ""}, model, log)


def _place(script: Path) -> Path:
    """Return where a script of `CHILD` goes: beside the child, or into the package's folders."""
    here = CHILD[0].parent
    return Path(script.name) if script.parent == here else script.relative_to(here.parents[1])


def _run(env: Environment, work: Path, timeout_s: float) -> int:
    """Run the child in a process group of its own, none of which outlives this call."""
    with (work / "log").open("wb") as log:
        child = subprocess.Popen(
            env.command("child.py"),
            cwd=work,
            env=_variables(env, work),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return child.wait(timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _variables(env: Environment, work: Path) -> Mapping[str, str]:
    proxies = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
    dead = {name: _NOWHERE for proxy in proxies for name in (proxy, proxy.upper())}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"}
    private = {"TMPDIR": str(work), "HOME": str(work), "no_proxy": "", "NO_PROXY": ""}
    # A user's own interpreter may keep its packages under the user's home.
    if env.folder is None:
        del private["HOME"]
    return env.variables({**dead, **quiet, **private})


def _publish(source: Path, target: Path) -> None:
    """Copy a file to its place, whole or not at all; nothing happens when there is none."""
    if not source.exists():
        return
    part = target.with_name(f".{target.name}.{os.getpid()}.{source.parent.name}")
    try:
        shutil.copyfile(source, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _read_result(
    work: Path, status: int, model: Path, log: Path, renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Return the child's result, or raise what it amounts to, in the model's own names."""
    path = work / "result.json"
    if not path.exists():
        raise _died(status, work / "log", model, log)
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not result["ok"]:
        node = renamed.get(result["node"], result["node"])
        raise _failed({**result, "node": node}, model, log)
    return result


def _failed(result: Mapping[str, Any], model: Path, log: Path) -> ConverterError:
    onnx2tf = f"onnx2tf {result['versions'].get('onnx2tf', '?')}"
    first = next(iter(result["message"].strip().splitlines()), "no message")
    where = f" (node {result['node']})" if result["node"] else ""
    other = f"try the other onnx2tf ({INSTALL} with a Python {_other_line(result['versions'])})"
    if result["kind"] == "parity":
        return ConverterError(
            f"{onnx2tf} made a file that does not compute what the ONNX model does: {first}",
            artifact=model,
            hint=f"{other}, or leave the litert backend out for this model; the log is {log}",
        )
    if result["kind"] == "constant":
        return ConverterError(
            f"{onnx2tf} drops outputs that do not depend on the input: {first}",
            artifact=model,
            hint="keep constants beside the model and not among its outputs, or leave the litert "
            "backend out",
        )
    if result["kind"] == "lost":
        return ConverterError(
            f"{onnx2tf} lost an output of the graph", artifact=model, hint=f"{other}; read {log}"
        )
    if result["op"]:
        return ConverterError(
            f"{onnx2tf} cannot lower the operator {result['op']}{where}: {first}",
            artifact=model,
            hint=f"write that part of the model with other operators, {other}, or leave the "
            f"litert backend out; the log is {log}",
        )
    return ConverterError(f"{onnx2tf} failed{where}: {first}", artifact=model, hint=f"read {log}")


def _other_line(versions: Mapping[str, str]) -> str:
    return "3.12" if versions.get("python", "").startswith("3.11") else "3.11"


def _died(status: int, printed: Path, model: Path, log: Path) -> ConverterError:
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return ConverterError(
            f"The converter was killed by {name}{hint}",
            artifact=model,
            hint=f"free some memory and try again; the log is {log}",
        )
    text = printed.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if re.search(r"\w", line)][-_QUOTED_LINES:]
    return ConverterError(
        f"The converter ended with status {status} and no result:\n  " + "\n  ".join(lines) + "\n",
        artifact=model,
        hint=f"read {log}; if packages are missing, {INSTALL}",
    )


def _too_slow(model: Path, timeout_s: float) -> ConverterError:
    return ConverterError(
        f"The conversion took more than {timeout_s:g} s and was stopped",
        artifact=model,
        hint="give it more time (attention models take minutes), or leave the litert backend out",
    )
