"""Looks for what commonly breaks a run here, and says what to type for each finding.

Every check takes what it judges as an argument (versions, metadata, a probe), so that it can be
shown a broken machine; `examine` hands it this one.
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
_LEAST_FREE, _WANTED_FREE = 1e9, 6e9  # bytes: one run; the converter's environment and one run
_PROBE_S = 180


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, and what to do about it ("" when sound)."""

    name: str
    status: Status
    what: str
    hint: str = ""


def worst(checks: Sequence[Check]) -> Status:
    """Return the gravest status of all, "ok" when there is none."""
    return max((check.status for check in checks), key=_ORDER.index, default="ok")


def examine() -> list[Check]:
    """Examine this machine; takes seconds, for torch and torchvision are imported in a child."""
    from torchopt2edge.runner.system_info import cpu
    from torchopt2edge.store import cache_root

    have, place = installed(), cache_root()
    return [
        check_python(sys.version_info[:3]),
        *check_requirements(declared(), have),
        check_vision(have, vision_pin(), probe_vision),
        check_onnxruntime(have),
        check_foreign(have),
        check_converter(),
        check_cpu(*cpu()),
        check_writable(place),
        check_space(place, shutil.disk_usage(standing(place)).free),
    ]


def render(console: Console, checks: Sequence[Check]) -> None:
    """Print a line per check, and below each finding what to type."""
    from rich.text import Text

    signs = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        sign, style = signs[check.status]
        head = Text.assemble((f"{sign} {check.status:<4}", style), f"  {check.name:<{width}}  ")
        console.print(head + Text(check.what), soft_wrap=True)
        if check.hint:
            # Unbroken, so that a command can be copied from a narrow terminal.
            console.print(Text(f"        → {check.hint}"), soft_wrap=True)
    console.print(Text(_summary(checks), style=signs[worst(checks)][1]))


def _summary(checks: Sequence[Check]) -> str:
    fails = sum(check.status == "fail" for check in checks)
    warns = sum(check.status == "warn" for check in checks)
    if not fails and not warns:
        return "Everything is in order."
    parts = [f"{fails} to fix" if fails else "", f"{warns} to know of" if warns else ""]
    return ", ".join(part for part in parts if part) + "."


def canonical(name: str) -> str:
    """Return a distribution's name as every tool compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return every installed distribution and its version."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        name = one.metadata["Name"]
        if name:  # a half-removed package has none
            found.setdefault(canonical(name), one.version)
    return found


def check_python(version: tuple[int, int, int] | Sequence[int]) -> Check:
    """Judge the interpreter: 3.11 or newer."""
    text = ".".join(map(str, version))
    if tuple(version[:2]) >= (3, 11):
        return Check("python", "ok", text)
    return Check(
        "python",
        "fail",
        f"{text} is too old",
        f"make an environment with Python 3.11 or newer and install {PACKAGE} there",
    )


def declared() -> list[str] | None:
    """Return the requirements that the package declares, None when it is not installed."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None


def check_requirements(requires: Sequence[str] | None, have: Installed) -> list[Check]:
    """Judge every runtime dependency that the package declares: there, and of a version it takes.

    What is sound becomes one check together; each finding is its own. Extras are left out.
    """
    from packaging.requirements import Requirement

    if requires is None:
        said = f"{PACKAGE} runs from a folder that was not installed, so its needs are unknown"
        return [Check("dependencies", "warn", said, "pip install . in its folder")]
    sound, findings = [], []
    for text in requires:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        found = _judge(need.name, str(need.specifier), have)
        if found.status == "ok":
            sound.append(f"{need.name} {found.what}")
        else:
            findings.append(found)
    if sound:
        findings.insert(0, Check("dependencies", "ok", ", ".join(sound)))
    return findings


def _judge(name: str, specifier: str, have: Installed) -> Check:
    from packaging.specifiers import SpecifierSet

    version = have.get(canonical(name))
    hint = f'pip install "{name}{specifier}"'
    if version is None:
        variant = next((one for one in have if one.startswith(f"{canonical(name)}-")), None)
        if name == "onnxruntime" and variant is not None:
            said = f"only {variant} {have[variant]} is installed: it answers for {name} unpinned"
            return Check(name, "warn", said, f"pip uninstall -y {variant} && {hint}")
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
    for need in map(Requirement, requires):
        if canonical(need.name) == "torch":
            return next((one.version for one in need.specifier if one.operator == "=="), None)
    return None


def check_vision(have: Installed, built_for: str | None, probe: Callable[[], str | None]) -> Check:
    """Judge the pair torch and torchvision, whose compiled parts must come from one build.

    ``built_for`` is the torch that torchvision's metadata names; ``probe`` imports both and
    returns the error, None without one: equal numbers do not help when one of the two is a CUDA
    build and the other is not (``operator torchvision::nms does not exist``).
    """
    torch, vision = have.get("torch"), have.get("torchvision")
    if torch is None or vision is None:
        return Check("torchvision", "fail", "torch or torchvision is absent", _pair(torch))
    pair = f"torch {torch} with torchvision {vision}"
    if built_for is not None and _public(torch) != _public(built_for):
        said = f"{pair}, which was built for torch {built_for}"
        return Check("torchvision", "fail", said, _pair(torch))
    error = probe()
    if error is not None:
        return Check("torchvision", "fail", f"{pair} cannot be imported: {error}", _pair(torch))
    return Check("torchvision", "ok", f"{pair} load together")


def _public(version: str) -> str:
    """Return a version without its local part (``+cpu``)."""
    return version.partition("+")[0]


def _pair(torch: str | None) -> str:
    """Return the command that installs a matching pair from one index.

    torchvision 0.(n + 15).p is the one that goes with torch 2.n.p.
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
    """Import torchvision's compiled operators in a child; return the error, None without one."""
    command = [sys.executable, "-c", "import torch, torchvision.ops; torch.ops.torchvision.nms"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the import took more than {_PROBE_S} s"
    if done.returncode == 0:
        return None
    last = [line for line in done.stderr.splitlines() if line.strip()]
    return last[-1] if last else f"the import ended with status {done.returncode}"


def check_onnxruntime(have: Installed) -> Check:
    """Judge the builds of ONNX Runtime: two of them overwrite each other's files."""
    builds = sorted(
        name
        for name in have
        if name == "onnxruntime" or re.fullmatch(r"onnxruntime-(gpu|directml|openvino|qnn)", name)
    )
    listed = ", ".join(f"{name} {have[name]}" for name in builds)
    if len(builds) < 2:
        return Check("onnxruntime", "ok", listed or "no second build in its way")
    return Check(
        "onnxruntime",
        "fail",
        f"{listed} share one folder: which of them is imported is chance",
        f"pip uninstall -y {' '.join(builds)} && "
        f'pip install "onnxruntime=={have.get("onnxruntime", have[builds[0]])}"',
    )


def check_foreign(have: Installed) -> Check:
    """Judge whether the converter's packages sit here, where they pin what others need free."""
    wanted = ("onnx2tf", "tensorflow", "tensorflow-cpu", "tf-keras")
    found = [name for name in wanted if name in have]
    if not found:
        return Check("tensorflow", "ok", "not in this environment, where it is not needed")
    return Check(
        "tensorflow",
        "warn",
        f"{', '.join(f'{name} {have[name]}' for name in found)} here are not used: the converter "
        "has its own environment, and their pins hold back numpy and protobuf",
        f"pip uninstall -y {' '.join(found)}  (unless you need them yourself)",
    )


def check_converter(cache: Path | None = None) -> Check:
    """Judge the sealed environment that makes .tflite files: built, and able to say what it has."""
    from torchopt2edge import converter

    try:
        env = converter.find(cache=cache)
        have = converter.versions(env)
    except ConverterMissing as error:
        said = "not built yet; only .tflite files need it"
        return Check("converter", "warn", said, error.hint or "")
    except EdgeError as error:
        return Check("converter", "fail", error.what, error.hint or "")
    kept = ("python", "onnx2tf", "tensorflow")
    return Check(
        "converter", "ok", ", ".join(f"{name} {have[name]}" for name in kept if name in have)
    )


def check_cpu(model: str, flags: Sequence[str]) -> Check:
    """Judge what the processor does with int8, which decides how a file should be quantized."""
    said = f"{model} ({', '.join(flags) or 'no telling instructions'})"
    known = set(flags)
    if known & {"avx512_vnni", "avx_vnni", "avx_vnni_int8"}:
        return Check("cpu", "ok", f"{said}: int8 is fast here with u8 activations and s8 weights")
    if known & {"asimddp", "i8mm"}:
        return Check("cpu", "ok", f"{said}: int8 is fast here with s8 activations and s8 weights")
    if "avx2" in known:
        return Check(
            "cpu",
            "warn",
            f"{said}: without VNNI, u8 activations with s8 weights can saturate, and int8 gains "
            "less speed",
            "make the .onnx files that run here with backend.ort.isa=x86 or isa=portable "
            "(the default takes it from the device)",
        )
    return Check(
        "cpu",
        "warn",
        f"{said}: no int8 dot product, so int8 may be slower than float here",
        "measure on the device that you ship to",
    )


def standing(place: Path) -> Path:
    """Return the nearest folder above ``place`` (or itself) that exists."""
    return next(one for one in (place, *place.parents) if one.exists())


def check_writable(place: Path) -> Check:
    """Judge whether the cache can be written, without making it."""
    there = standing(place)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Check("cache", "ok", f"{place} can be written")
    return Check(
        "cache",
        "fail",
        f"{place} cannot be written",
        "export TORCHOPT2EDGE_CACHE=FOLDER with a folder that you can write",
    )


def check_space(place: Path, free: float) -> Check:
    """Judge the free space (bytes) where the cache is."""
    said = f"{free / 1e9:.1f} GB free for {place}"
    if free >= _WANTED_FREE:
        return Check("space", "ok", said)
    hint = "free some space, or export TORCHOPT2EDGE_CACHE=FOLDER on a larger disk"
    if free >= _LEAST_FREE:
        wanted = f"the converter's environment and a run want {_WANTED_FREE / 1e9:.0f} GB"
        return Check("space", "warn", f"{said}; {wanted}", hint)
    return Check("space", "fail", said, hint)
