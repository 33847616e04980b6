"""What every suite shares: its options, its goals, its table and its record.

A suite calls `start` before the work and `Run.finish` after it: the table and the goals go to the
console, the record (machine, versions, settings, results, raw samples, goals) to a JSON file, and
the exit code says whether every goal holds. A record names no folder, user or host.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from torchopt2edge.types import Measurement

Row = Mapping[str, Any]

ROOT = Path(__file__).resolve().parents[1]
RECORDS = Path(__file__).with_name("record")
RAW_LIMIT = 200_000
TOOLS = (
    "torchopt2edge",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "numpy",
)
_MACHINE = ("cpu", "cpu_flags", "arch", "cores", "memory_gb", "os", "kernel", "governor", "steal")
_FACTS = (
    "runtime",
    "runtime_version",
    "provider",
    "delegate",
    "mode",
    "threads",
    "spinning",
    "options",
    "ops",
    "params",
    "macs",
    "macs_share",
    "ranges_matched",
    "ranges_calibrated",
    "parity_db",
    "converter",
    "file_sha256",
    "metric",
    "n_eval",
    "flags",
    "warnings",
    "load_before",
    "load_after",
    "cpu_share",
    "involuntary_per_s",
    "steal",
    "warmup_flat",
)
_PATH = re.compile(r"(?<![\w.:/])(?:~|/[\w.+@-]+)(?:/[\w.+@-]+)+/?")


@dataclass(frozen=True)
class Goal:
    """One promise and what was found; what was not found (None) does not hold.

    ``low`` and ``high`` bound ``found`` where there are repeats; the suite says what they are.
    The point decides, and an interval across the limit is shown as such.
    """

    what: str
    limit: float
    found: float | None
    unit: str = ""
    at_least: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the found value is on the right side of the limit."""
        return self.found is not None and self._right(self.found)

    @property
    def verdict(self) -> str:
        """``holds``, ``missed`` or ``not measured``; with ``, narrowly`` across the limit."""
        if self.found is None:
            return "not measured"
        known = [end for end in (self.low, self.high) if end is not None]
        close = any(self._right(end) != self.holds for end in known)
        return ("holds" if self.holds else "missed") + (", narrowly" if close else "")

    def _right(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Record:
    """What a suite found on one machine: plain data that a reader can judge and repeat."""

    suite: str
    when: str
    seconds: float
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    results: list[dict[str, Any]]
    goals: list[Goal]
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every goal holds."""
        return all(goal.holds for goal in self.goals)

    def to_json(self) -> dict[str, Any]:
        """Return plain data with every path cut down to its last name."""
        goals = [{**asdict(goal), "verdict": goal.verdict} for goal in self.goals]
        plain = {"schema": 1, **asdict(self), "goals": goals, "passed": self.passed}
        return {str(key): scrub(value) for key, value in plain.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Read what ``to_json`` wrote."""
        rest = {k: v for k, v in data.items() if k not in ("schema", "passed", "goals")}
        goals = [{k: v for k, v in goal.items() if k != "verdict"} for goal in data["goals"]]
        return cls(**rest, goals=[Goal(**goal) for goal in goals])


@dataclass(frozen=True)
class Run:
    """A suite at work: what was known before it began."""

    suite: str
    settings: dict[str, Any]
    out: Path | None
    began: float
    machine: dict[str, Any]

    def finish(
        self,
        results: Sequence[Row],
        goals: Sequence[Goal],
        raw: Row | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> int:
        """Show and keep what was found; return the exit code."""
        from torchopt2edge.runner import system_info

        record = Record(
            suite=self.suite,
            when=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            seconds=round(time.monotonic() - self.began, 1),
            settings=self.settings,
            machine={**self.machine, "load_after": system_info.load()},
            versions={**versions_here(), **(versions or {})},
            results=[dict(row) for row in results],
            goals=list(goals),
            raw=dict(raw or {}),
        )
        console = stdout()
        show(console, record)
        file = save(record, self.out or default_file(self.suite, self.machine))
        console.print(f"record: {file}", markup=False, highlight=False)
        return 0 if record.passed else 1


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with a suite's docstring as its help and the option ``--out``."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, help="the record's file (default: under record/)")
    return made


def start(suite: str, options: argparse.Namespace) -> Run:
    """Note the time, the load and the machine before the work begins."""
    from torchopt2edge.runner import system_info

    known = system_info.machine()
    machine = {name: known[name] for name in _MACHINE}
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "inside")}
    plain = json.loads(json.dumps(settings, default=lambda path: path.resolve().name))
    return Run(
        suite, plain, options.out, time.monotonic(), {**machine, "load_before": known["load"]}
    )


def default_file(suite: str, machine: Mapping[str, Any]) -> Path:
    """Return ``record/<date>-<machine>/<suite>.json``."""
    return RECORDS / f"{time.strftime('%Y-%m-%d')}-{slug(machine)}" / f"{suite}.json"


def slug(machine: Mapping[str, Any]) -> str:
    """Return a short name made of the CPU's model and its cores, fit for a folder."""
    model = re.sub(r"\((R|TM|C)\)|@.*|\bCPU\b", " ", str(machine["cpu"]), flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", model.lower())
    return "-".join([*words, str(machine["cores"]), "cores"])


def versions_here() -> dict[str, str]:
    """Return the versions of Python, of the packages and of this repository."""
    from torchopt2edge.store import versions

    return {**versions(TOOLS), "python": platform.python_version(), "commit": _commit()}


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def scrub(value: Any) -> Any:
    """Make plain, strict JSON data of it: every absolute path is cut down to its last name.

    Tuples become lists, a number that is not finite None.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _PATH.sub(lambda found: f"…/{Path(found.group()).name}", value)
    if isinstance(value, Mapping):
        return {str(key): scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    return value


def save(record: Record, file: Path) -> Path:
    """Write a record; beyond 200 kB its raw latencies become one median per round."""
    data = record.to_json()
    text = _dumps(data)
    if len(text.encode()) > RAW_LIMIT:
        text = _dumps(_by_round(data))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def load(file: Path) -> Record:
    """Read a record that `save` wrote."""
    return Record.from_json(json.loads(file.read_text(encoding="utf-8")))


def _dumps(data: Row) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _by_round(value: Any) -> Any:
    """Replace ``latency_ns`` wherever it stands: the round is the unit of statistics anyway."""
    if isinstance(value, list):
        return [_by_round(item) for item in value]
    if not isinstance(value, dict):
        return value
    rest = {key: _by_round(item) for key, item in value.items() if key != "latency_ns"}
    if "latency_ns" in value:
        rest["round_median_ns"] = [statistics.median(one) for one in value["latency_ns"]]
        rest["round_samples"] = [len(one) for one in value["latency_ns"]]
    return rest


def slim(row: Measurement) -> dict[str, Any]:
    """Return a row without what repeats in every row or names a folder."""
    facts = {name: row.facts[name] for name in _FACTS if name in row.facts}
    kept = {"candidate": row.candidate, "backend": row.backend, "scheme": row.scheme}
    samples = {"latency_ns": row.latency_ns} if row.latency_ns else {}
    return {**kept, "metrics": row.metrics, **samples, "facts": facts, "err": row.err}


def stdout() -> Console:
    """Return a console on standard output, wide enough for a table when it is not a terminal."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def show(console: Console, record: Record) -> None:
    """Print the results and the goals as tables."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=record.suite)
    known = ((key, value) for row in record.results for key, value in row.items())
    columns = list(dict.fromkeys(key for key, value in known if value is not None))
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in record.results:
        table.add_row(*(escape(cell(row.get(column))) for column in columns))
    console.print(table)
    goals = Table(title="goals")
    for column in ("goal", "limit", "found", "from – to", ""):
        goals.add_column(column, justify="left" if column in ("goal", "") else "right")
    for goal in record.goals:
        ends = None if goal.low is None or goal.high is None else (goal.low, goal.high)
        sign = "≥" if goal.at_least else "≤"
        style = "green" if goal.holds else "red"
        limit, found = f"{sign} {cell(goal.limit)} {goal.unit}", cell(goal.found)
        goals.add_row(goal.what, limit, found, cell(ends), goal.verdict, style=style)
    if record.goals:
        console.print(goals)


def cell(value: Any) -> str:
    """Return a value as a table shows it: four digits, a range as two numbers, – for none."""
    if value is None:
        return "–"
    if isinstance(value, bool | int | str):
        return str(value)
    if isinstance(value, tuple | list):
        return " – ".join(cell(item) for item in value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def command(*arguments: str) -> list[str]:
    """Return the command line of ``torchopt2edge`` in this interpreter."""
    return [sys.executable, "-c", "from torchopt2edge.cli.main import entry; entry()", *arguments]


def steps(log: str) -> dict[str, float]:
    """Return the seconds of every finished step in a run's ``run.log``."""
    found = re.findall(r"^\S+ \S+ INFO (.+): (\d+\.\d) s$", log, flags=re.MULTILINE)
    return {title: float(seconds) for title, seconds in found}
