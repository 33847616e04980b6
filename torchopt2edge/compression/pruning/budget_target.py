"""The budget of a pruning, read off its spec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.errors import ConfigError

_WORDS = re.compile(r"(macs|params|latency_ms):([0-9.]+)(?:@([\w-]+))?")
_EXAMPLES = "macs:0.5, params:0.4 or latency_ms:12@ort-int8"


@dataclass(frozen=True)
class Target:
    """What has to come down and to what: a share of ``macs`` or ``params``, or milliseconds.

    ``where`` is the file whose latency counts, backend and scheme (``ort-int8``).
    """

    kind: Literal["macs", "params", "latency_ms"]
    value: float
    where: str = ""


def target_of(spec: Prune) -> Target | None:
    """Return the one budget of a spec; None when its ``ratios`` say all.

    Raises:
        ConfigError: none or several, a value out of range, words that mean nothing.
    """
    given = {"macs": spec.macs, "params": spec.params}
    named = [name for name, value in given.items() if value is not None]
    if not named and spec.target is not None:
        named = ["target"]
    if not named and spec.ratios:
        return None
    if len(named) != 1:
        raise ConfigError(
            f"pruning has {'no budget' if not named else f'several budgets: {named}'}",
            hint=f"one of macs, params and target, such as target={_EXAMPLES}",
        )
    if spec.macs is not None:
        target = Target("macs", spec.macs)
    elif spec.params is not None:
        target = Target("params", spec.params)
    else:
        target = _parsed(str(spec.target))
    if target.kind != "latency_ms" and not 0 < target.value <= 1:
        raise ConfigError(
            f"{target.value} is no share of {target.kind} that can stay", hint="a share in 0 … 1"
        )
    return target


def _parsed(words: str) -> Target:
    found = _WORDS.fullmatch(words.replace(" ", ""))
    where = found[3] if found else None
    if found is None or (found[1] == "latency_ms") != bool(where):
        raise ConfigError(f"the pruning target {words!r} cannot be read", hint=_EXAMPLES)
    try:
        value = float(found[2])
    except ValueError as error:
        raise ConfigError(f"{found[2]!r} is no number", hint=_EXAMPLES) from error
    if where and (value <= 0 or "-" not in where):
        raise ConfigError(f"the pruning target {words!r} cannot be met", hint=_EXAMPLES)
    kind: Literal["macs", "params", "latency_ms"]
    kind = "macs" if found[1] == "macs" else "params" if found[1] == "params" else "latency_ms"
    return Target(kind, value, where or "")


def check(spec: Prune) -> None:
    """Refuse numbers that cannot work.

    Raises:
        ConfigError: it names them.
        PruneError: a ratio that leaves no channel.
    """
    from torchopt2edge.errors import PruneError

    target_of(spec)
    if (
        (spec.round_to or 1) < 1
        or spec.round_to == 0
        or not 0 <= spec.max_cut < 1
        or spec.strength < 0
    ):
        raise ConfigError(
            f"round_to={spec.round_to}, max_cut={spec.max_cut}, strength={spec.strength} "
            "cannot be met",
            hint="round_to of at least 1, max_cut from 0 to below 1, strength of at least 0",
        )
    for pattern, ratio in spec.ratios.items():
        if not 0 <= ratio < 1:
            raise PruneError(
                f"a ratio of {ratio} leaves no channel of {pattern!r}"
                if ratio >= 1
                else f"a ratio of {ratio} for {pattern!r} is below 0",
                hint="a ratio from 0 to below 1",
            )
