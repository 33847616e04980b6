"""Which threads and cores the candidates are tried with, and what else is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchopt2edge.devices.core_classes import NAMES
from torchopt2edge.errors import ConfigError
from torchopt2edge.types import BASELINE, Candidate, Facts


@dataclass(frozen=True)
class Bench:
    """What a comparison measures besides the files themselves.

    ``threads``, ``affinity`` and ``cores`` (classes of cores: ``big``, ``mid``, ``little``) are
    settings that every file is tried with, each combination a candidate of its own in the same
    race (None: those of the device); one with more threads than ``affinity`` has cores is left
    out. ``profile`` lists the ten costliest operators of each.
    ``fail_on_fallback`` takes a file out of the race when a part of it runs outside of the
    runtime's fast path (`placement`).
    """

    threads: tuple[int, ...] | None = None
    affinity: tuple[tuple[int, ...], ...] | None = None
    profile: bool = False
    fail_on_fallback: bool = False
    cores: Sequence[str] | None = None

    def variants(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return every candidate once per setting, its id with the setting behind an ``@``.

        The PyTorch baseline, which nobody ships, is tried with the first setting alone.

        Raises:
            ConfigError: a setting is empty, has less than one thread, names no class of cores,
                cores are named twice, or all have more threads than cores.
        """
        settings = self._settings()
        return [
            replace(one, id=f"{one.id}{_mark(setting)}", facts={**one.facts, **_fact(one, setting)})
            for one in candidates
            for setting in (settings if one.backend != BASELINE else settings[:1])
        ]

    def _settings(self) -> list[dict[str, Any]]:
        wrong = self.threads == () or self.affinity == () or min(self.threads or (1,)) < 1
        if wrong or () in (self.affinity or ((0,),)):
            raise ConfigError("a setting to try is empty", hint="bench.threads=[1,2,4]")
        self._check_cores()
        made: list[dict[str, Any]] = [{}]
        if self.threads is not None:
            made = [{**one, "threads": count} for one in made for count in self.threads]
        if self.affinity is not None:
            made = [{**one, "affinity": tuple(cores)} for one in made for cores in self.affinity]
            # More threads than cores stall each other, and a run that stalls names no winner.
            made = [one for one in made if one.get("threads", 1) <= len(one["affinity"])]
            if not made:
                raise ConfigError(
                    "every setting to try has more threads than cores",
                    hint="bench.affinity=[[0],[0,1]] bench.threads=[1,2]",
                )
        if self.cores is not None:
            # A class takes the place of the cores that the device itself is told to use.
            named = [{"cores": name, "affinity": None} for name in self.cores]
            made = [{**one, **cores} for one in made for cores in named]
        return made

    def _check_cores(self) -> None:
        if self.cores is None:
            return
        if self.affinity is not None:
            raise ConfigError(
                "bench.cores and bench.affinity both name cores",
                hint="bench.affinity=null, or bench.cores=null",
            )
        if isinstance(self.cores, str) or not self.cores or set(self.cores) - set(NAMES):
            raise ConfigError(
                f"{self.cores!r} is not a setting of classes of cores to try",
                hint=f"bench.cores=[{','.join(NAMES)}]",
            )


def _mark(setting: Facts) -> str:
    parts = [f"{setting['threads']}t"] if "threads" in setting else []
    if "cores" in setting:
        parts.append(setting["cores"])
    elif "affinity" in setting:
        parts.append("c" + ".".join(map(str, setting["affinity"])))
    return f"@{'-'.join(parts)}" if parts else ""


def _fact(one: Candidate, setting: Facts) -> Facts:
    return {"setting": setting, "base": one.id} if setting else {}
