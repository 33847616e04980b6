"""How much of a file runs in its runtime's fast path, from what was read back of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchopt2edge.types import SCHEMES, Facts


def placement(backend: str, scheme: str, facts: Mapping[str, Any]) -> Facts:
    """Return the share of nodes and of MACs (per cent) in the fast path, and what breaks it.

    The fast path of an integer scheme are the integer kernels; in LiteRT it is XNNPACK whatever
    the scheme, in ONNX Runtime of a float one every node. ``partitions`` are the pieces that
    XNNPACK was given, ``fallback`` the operators outside by type, which ``nodes`` counts; {} when
    nothing was read back.
    """
    if "ops" not in facts:
        return {}
    fallback, whole = dict(facts.get("outside_ops") or {}), sum(facts["ops"].values())
    found: Facts = {"transposes": facts.get("transposes", 0)}
    if _integer(scheme):
        floats = dict(facts.get("float_ops") or {})
        whole = sum((facts.get("integer_ops") or {}).values()) + sum(floats.values())
        fallback = {
            op: max(fallback.get(op, 0), floats.get(op, 0)) for op in {**floats, **fallback}
        }
        found |= {"macs": float(facts.get("int8_macs", 0.0))}
    nodes = 100.0 * max(0.0, 1.0 - sum(fallback.values()) / max(1, whole))
    found |= {"nodes": round(nodes, 1), "fallback": fallback}
    for name in ("partitions", "unfused_qdq"):
        if name in facts and (name != "unfused_qdq" or _integer(scheme)):
            found[name] = facts[name]
    return found


def falls_back(found: Mapping[str, Any]) -> str | None:
    """Return what of a placement is outside of the fast path, in words, or None."""
    signs = []
    if found.get("macs", 100.0) < 99.95:
        signs.append(f"{100.0 - found['macs']:.1f} % of its multiply-accumulates are in float")
    if found.get("partitions", 1) != 1:
        signs.append(f"XNNPACK takes it in {found['partitions']} pieces")
    if found.get("unfused_qdq"):
        signs.append(f"{found['unfused_qdq']} dequantizations stayed unfused")
    if not signs:
        return None
    listed = ", ".join(f"{count} {op}" for op, count in (found.get("fallback") or {}).items())
    return "; ".join(signs) + (f" (outside: {listed})" if listed else "")


def _integer(scheme: str) -> bool:
    known = SCHEMES.get(scheme)
    return known is not None and known.activations != "float32"
