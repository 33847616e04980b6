"""Kinds of processor by how their 8-bit integer kernels multiply and add.

A runtime chooses its kernels by the processor's instructions. Three of the four kinds add 8-bit
products exactly. On x86 without VNNI the fast instruction (``vpmaddubsw``) adds two products of an
unsigned and a signed byte in 16 bits and saturates, so ONNX Runtime's result depends on the
weights (`quantize.saturation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

X86_VNNI = "x86-vnni"
X86 = "x86"
ARM64_DOT = "arm64-dotprod"
ARM64 = "arm64"
KINDS = (X86_VNNI, X86, ARM64_DOT, ARM64)
PORTABLE = "portable"
"""The preset of a file that is exact on every kind."""

DESCRIPTIONS = {
    X86_VNNI: "x86 with VNNI",
    X86: "x86 without VNNI",
    ARM64_DOT: "arm64 with dot-product instructions",
    ARM64: "arm64 without dot-product instructions",
}

_X86_ARCHES = frozenset(("x86_64", "amd64", "i386", "i686", "x86"))
_DOT = frozenset(("asimddp", "i8mm"))


def kind_of(facts: Mapping[str, Any]) -> str | None:
    """Return the kind of a device's processor, or None when the device did not report it.

    Args:
        facts: the device's facts: ``arch`` as `platform.machine` names it, and ``cpu_flags``, the
            telling flags of ``/proc/cpuinfo`` (`runner.system_info.cpu`).
    """
    arch, flags = str(facts.get("arch", "")).lower(), facts.get("cpu_flags") or ()
    if arch.startswith(("aarch64", "arm")):
        return ARM64_DOT if _DOT.intersection(flags) else ARM64
    if arch in _X86_ARCHES or "avx2" in flags:
        return X86_VNNI if any("vnni" in flag for flag in flags) else X86
    return None


def preset_of(kind: str | None) -> str:
    """Return the file preset for a kind of processor; `PORTABLE` for an unknown one."""
    return ARM64 if kind == ARM64_DOT else kind or PORTABLE
