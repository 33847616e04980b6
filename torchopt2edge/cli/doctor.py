"""Checks this machine for common problems, each with a command that fixes it.

Every check takes its inputs as arguments (versions, metadata, a probe), so that tests can describe
a broken machine; `examine` passes those of this one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torchopt2edge.errors import ConverterMissing, EdgeError

if TYPE_CHECKING:
    from rich.console import Console

Status = Literal["ok", "warn", "fail"]
Installed = Mapping[str, str]  # canonical name of a distribution → version

PACKAGE = "torchopt2edge"
_ORDER: tuple[Status, ...] = ("ok", "warn", "fail")
# Bytes: enough for one run; enough for the converter's environment and one run.
_LEAST_FREE, _WANTED_FREE = 1e9, 6e9
_PROBE_S = 180


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        name: what was checked.
        status: ``ok``, ``warn`` or ``fail``.
        what: the result in words.
        hint: the command or the change that helps; "" when nothing has to be done.
    """

    name: str
    status: Status
    what: str
    hint: str = ""


def worst(checks: Sequence[Check]) -> Status:
    """Return the worst status of all checks, "ok" when there is none."""
    return max((check.status for check in checks), key=_ORDER.index, default="ok")


def examine() -> list[Check]:
    """Check this machine; it takes seconds, because a child process imports torchvision."""
    from torchopt2edge.runner.system_info import cpu
    from torchopt2edge.store import cache_root

    have, cache = installed(), cache_root()
    return [
        check_python(sys.version_info[:3]),
        *check_requirements(declared(), have),
        check_vision(have, vision_pin(), probe_vision),
        check_onnxruntime(have),
        check_foreign(have),
        check_converter(),
        check_cpu(*cpu()),
        check_writable(cache),
        check_space(cache, shutil.disk_usage(existing_parent(cache)).free),
    ]


def render(console: Console, checks: Sequence[Check]) -> None:
    """Print a line per check, and its hint below."""
    from rich.text import Text

    marks = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        mark, style = marks[check.status]
        head = Text.assemble((f"{mark} {check.status:<4}", style), f"  {check.name:<{width}}  ")
        console.print(head + Text(check.what), soft_wrap=True)
        if check.hint:
            # Not wrapped, so that a command can be copied from a narrow terminal.
            console.print(Text(f"        → {check.hint}"), soft_wrap=True)
    console.print(Text(_summary(checks), style=marks[worst(checks)][1]))


def _summary(checks: Sequence[Check]) -> str:
    fails = sum(check.status == "fail" for check in checks)
    warns = sum(check.status == "warn" for check in checks)
    if not fails and not warns:
        return "No problem was found."
    parts = [
        f"{fails} to fix" if fails else "",
        f"{warns} warning{'s' if warns > 1 else ''}" if warns else "",
    ]
    return ", ".join(part for part in parts if part) + "."


def canonical(name: str) -> str:
    """Return the normalized name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return the version of every installed distribution, by its normalized name."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed package has none
            versions.setdefault(canonical(name), distribution.version)
    return versions


def check_python(version: tuple[int, int, int] | Sequence[int]) -> Check:
    """Check the interpreter: 3.11 or newer."""
    text = ".".join(map(str, version))
    if tuple(version[:2]) >= (3, 11):
        return Check("python", "ok", text)
    return Check(
        "python",
        "fail",
        f"{text} is too old",
        f"create an environment with Python 3.11 or newer and install {PACKAGE} there",
    )


def declared() -> list[str] | None:
    """Return the requirements of the package, None when it is not installed."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None


def check_requirements(requires: Sequence[str] | None, have: Installed) -> list[Check]:
    """Check that every runtime dependency is installed in a version that the package takes.

    Those without a problem share one check; every other has its own. Extras are not checked.
    """
    from packaging.requirements import Requirement

    if requires is None:
        message = (
            f"{PACKAGE} is not installed (it runs from a folder), so its dependencies are unknown"
        )
        return [Check("dependencies", "warn", message, "pip install . in its folder")]
    satisfied, problems = [], []
    for text in requires:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        check = _check_version(requirement.name, str(requirement.specifier), have)
        if check.status == "ok":
            satisfied.append(f"{requirement.name} {check.what}")
        else:
            problems.append(check)
    if satisfied:
        problems.insert(0, Check("dependencies", "ok", ", ".join(satisfied)))
    return problems


def _check_version(name: str, specifier: str, have: Installed) -> Check:
    from packaging.specifiers import SpecifierSet

    version = have.get(canonical(name))
    hint = f'pip install "{name}{specifier}"'
    if version is None:
        variant = next((other for other in have if other.startswith(f"{canonical(name)}-")), None)
        if name == "onnxruntime" and variant is not None:
            message = f"only {variant} {have[variant]} is installed; it is imported as {name}"
            return Check(name, "warn", message, f"pip uninstall -y {variant} && {hint}")
        return Check(name, "fail", "is not installed", hint)
    if not SpecifierSet(specifier).contains(version, prereleases=True):
        return Check(name, "fail", f"{version} is not {specifier}", hint)
    return Check(name, "ok", version)


def vision_pin() -> str | None:
    """Return the version of torch that the installed torchvision was built for."""
    from packaging.requirements import Requirement

    try:
        requires = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return None
    for requirement in map(Requirement, requires):
        if canonical(requirement.name) == "torch":
            pins = (part.version for part in requirement.specifier if part.operator == "==")
            return next(pins, None)
    return None


def check_vision(have: Installed, built_for: str | None, probe: Callable[[], str | None]) -> Check:
    """Check torch and torchvision, whose compiled parts must come from one build.

    Args:
        have: the installed versions.
        built_for: the version of torch in torchvision's metadata.
        probe: imports both, and returns the error or None. Equal versions do not help when only
            one of the two is a CUDA build (``operator torchvision::nms does not exist``).
    """
    torch, vision = have.get("torch"), have.get("torchvision")
    if torch is None or vision is None:
        return Check("torchvision", "fail", "torch or torchvision is not installed", _pair(torch))
    pair = f"torch {torch} with torchvision {vision}"
    if built_for is not None and _public(torch) != _public(built_for):
        message = f"{pair}, which was built for torch {built_for}"
        return Check("torchvision", "fail", message, _pair(torch))
    error = probe()
    if error is not None:
        return Check("torchvision", "fail", f"{pair} cannot be imported: {error}", _pair(torch))
    return Check("torchvision", "ok", f"{pair} can be imported together")


def _public(version: str) -> str:
    """Return a version without its local part (``+cpu``)."""
    return version.partition("+")[0]


def _pair(torch: str | None) -> str:
    """Return the command that installs a matching pair from one index.

    torchvision 0.(n + 15).p belongs to torch 2.n.p.
    """
    numbers = re.match(r"2\.(\d+)\.(\d+)", torch or "")
    if numbers is None:
        return "pip install --force-reinstall torch torchvision"
    minor, patch = int(numbers[1]), int(numbers[2])
    return (
        f'pip install --force-reinstall "torch==2.{minor}.{patch}" '
        f'"torchvision==0.{minor + 15}.{patch}"'
    )


def probe_vision() -> str | None:
    """Import torchvision's compiled operators in a child process; return the error or None."""
    command = [sys.executable, "-c", "import torch, torchvision.ops; torch.ops.torchvision.nms"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the import took more than {_PROBE_S} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"the import ended with status {done.returncode}"


def check_onnxruntime(have: Installed) -> Check:
    """Check the builds of ONNX Runtime: two of them overwrite each other's files."""
    builds = sorted(
        name
        for name in have
        if name == "onnxruntime" or re.fullmatch(r"onnxruntime-(gpu|directml|openvino|qnn)", name)
    )
    listed = ", ".join(f"{name} {have[name]}" for name in builds)
    if len(builds) < 2:
        return Check("onnxruntime", "ok", listed or "no second build is installed")
    return Check(
        "onnxruntime",
        "fail",
        f"{listed} write into one folder: either of them may be imported",
        f"pip uninstall -y {' '.join(builds)} && "
        f'pip install "onnxruntime=={have.get("onnxruntime", have[builds[0]])}"',
    )


def check_foreign(have: Installed) -> Check:
    """Check for the converter's packages, whose pins conflict with other packages here."""
    names = ("onnx2tf", "tensorflow", "tensorflow-cpu", "tf-keras")
    present = [name for name in names if name in have]
    if not present:
        return Check("tensorflow", "ok", "not in this environment, and not needed here")
    return Check(
        "tensorflow",
        "warn",
        f"{', '.join(f'{name} {have[name]}' for name in present)} here are not used: the converter "
        "has its own environment, and their pins hold back numpy and protobuf",
        f"pip uninstall -y {' '.join(present)}  (unless you need them yourself)",
    )


def check_converter(cache: Path | None = None) -> Check:
    """Check that the sealed environment for .tflite files is built and reports its versions."""
    from torchopt2edge import converter

    try:
        have = converter.versions(converter.find(cache=cache))
    except ConverterMissing as error:
        message = "not built yet; only .tflite files need it"
        return Check("converter", "warn", message, error.hint or "")
    except EdgeError as error:
        return Check("converter", "fail", error.what, error.hint or "")
    names = ("python", "onnx2tf", "tensorflow")
    versions = ", ".join(f"{name} {have[name]}" for name in names if name in have)
    return Check("converter", "ok", versions)


def check_cpu(model: str, flags: Sequence[str]) -> Check:
    """Check the processor's int8 instructions, which decide how a file should be quantized."""
    cpu = f"{model} ({', '.join(flags) or 'no int8 instructions'})"
    known = set(flags)
    if known & {"avx512_vnni", "avx_vnni", "avx_vnni_int8"}:
        return Check("cpu", "ok", f"{cpu}: int8 is fast here with u8 activations and s8 weights")
    if known & {"asimddp", "i8mm"}:
        return Check("cpu", "ok", f"{cpu}: int8 is fast here with s8 activations and s8 weights")
    if "avx2" in known:
        return Check(
            "cpu",
            "warn",
            f"{cpu}: without VNNI, u8 activations with s8 weights can saturate, and int8 gains "
            "less speed",
            "make the .onnx files that run here with backend.ort.isa=x86 or isa=portable "
            "(the default takes it from the device)",
        )
    return Check(
        "cpu",
        "warn",
        f"{cpu}: no int8 dot product, so int8 may be slower than float here",
        "measure on the device that you ship to",
    )


def existing_parent(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_writable(cache: Path) -> Check:
    """Check that the cache can be written, without creating it."""
    folder = existing_parent(cache)
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Check("cache", "ok", f"{cache} can be written")
    return Check(
        "cache",
        "fail",
        f"{cache} cannot be written",
        "export TORCHOPT2EDGE_CACHE=FOLDER with a folder that you can write",
    )


def check_space(cache: Path, free: float) -> Check:
    """Check the free space (bytes) on the disk of the cache."""
    message = f"{free / 1e9:.1f} GB free for {cache}"
    if free >= _WANTED_FREE:
        return Check("space", "ok", message)
    hint = "free some space, or export TORCHOPT2EDGE_CACHE=FOLDER on a larger disk"
    if free >= _LEAST_FREE:
        needed = f"the converter's environment and a run need {_WANTED_FREE / 1e9:.0f} GB"
        return Check("space", "warn", f"{message}; {needed}", hint)
    return Check("space", "fail", message, hint)
