"""What each technique bought on real data: a table for the README, made of the newest records.

Nothing is measured here: the suites `distill`, `pruning`, `sparsity`, `qat` and `cifar` leave
their records, and every cell is computed from those. The table goes between two marks in README.md.

    make bench SUITE=techniques
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import frame
from benchmarks.frame import Record

BEGIN = "<!-- techniques: made by `make bench SUITE=techniques` from the records -->"
END = "<!-- /techniques -->"
README = frame.ROOT / "README.md"


@dataclass(frozen=True)
class Bought:
    """A row: what was done, to which net, what it cost in accuracy and bought in time and size."""

    technique: str
    net: str
    accuracy: str
    time: str
    size: str
    suite: str


def newest(suite: str, records: Path = frame.RECORDS) -> Record | None:
    """Return the latest record of a suite, None when there is none."""
    found = [frame.load(path) for path in records.rglob(f"{suite}.json")]
    return max(found, key=lambda record: record.when, default=None)


def distill(record: Record) -> Iterator[Bought]:
    """The student with a teacher, against the same student alone."""
    goals = {goal.what: goal for goal in record.goals}
    gain = next(goal for what, goal in goals.items() if "above without" in what)
    test = next(goal for what, goal in goals.items() if what.startswith("paired"))
    pairs = record.raw["pairs"]
    plain, taught = (sum(one[key] for one in pairs) / len(pairs) for key in ("plain", "taught"))
    p = "p < 0.001" if (test.found or 1) < 0.001 else f"p = {test.found:.2g}"
    yield Bought(
        f"distillation from ResNet-56 ({record.settings['loss']}), cached teacher",
        f"{record.settings['student']}, CIFAR-10, {len(pairs)} seeds",
        f"{plain:.2f} → {taught:.2f} % (+{gain.found:.2f} points, {p})",
        "as before",
        "as before",
        "distill",
    )


def pruning(record: Record) -> Iterator[Bought]:
    """Half of the multiply-accumulates, and what that is in time."""
    scores = {row["net"]: row for row in record.results if "top-1" in row}
    dense, pruned = scores.get("resnet56 dense"), scores.get("resnet56 pruned")
    chance = scores.get("resnet56 random")
    for name, title in (("resnet56", "ResNet-56"), ("mobilenet_v2", "MobileNetV2, 224 pixels")):
        rows = [row for row in record.results if row["net"] == name and "faster" in row]
        if not rows:
            continue
        said = "its speed alone"
        if name == "resnet56" and dense and pruned and chance:
            said = (
                f"{dense['top-1']:.2f} → {pruned['top-1']:.2f} % "
                f"(random channels {chance['top-1']:.2f})"
            )
        yield Bought(
            f"structured pruning, {rows[0]['MACs ratio']:.2f} × fewer MACs",
            f"{title}, CIFAR-10" if name == "resnet56" else title,
            said,
            _times(rows, "faster"),
            _times(rows, "size ratio", "smaller"),
            "pruning",
        )


def sparsity(record: Record) -> Iterator[Bought]:
    """70 % of zeros: nothing in time, something once compressed."""
    for model in dict.fromkeys(row["net"] for row in record.results):
        rows = [row for row in record.results if row["net"] == model and "faster" in row]
        if not rows:
            continue
        first = rows[0]
        packed = {row["file"]: 1 / row["gzip ÷ dense"] for row in rows}
        yield Bought(
            f"unstructured sparsity, {first['zeros %']:.0f} % of zeros",
            f"{_title(model)}, CIFAR-10",
            f"{first['dense top-1']:.2f} → {first['sparse top-1']:.2f} %",
            _times(rows, "faster"),
            f"gzipped {packed['ort-fp32']:.2f} × (fp32), {packed['ort-int8']:.2f} × (int8) smaller",
            "sparsity",
        )


def quantized(record: Record) -> Iterator[Bought]:
    """int8 after training, in both runtimes."""
    rows = {row["candidate"]: row for row in record.raw["rows"]}
    if not {"ort-fp32", "ort-int8", "litert-fp32", "litert-int8"} <= set(rows):
        return
    ratios, sizes, top = {}, {}, {}
    for runtime in ("ort", "litert"):
        dense, small = (rows[f"{runtime}-{scheme}"]["metrics"] for scheme in ("fp32", "int8"))
        ratios[runtime] = dense["latency_ms"] / small["latency_ms"]
        sizes[runtime] = dense["size_mb"] / small["size_mb"]
        top[runtime] = (dense["top1"], small["top1"])
    yield Bought(
        "int8 after training",
        f"{_title(record.settings['model'])}, CIFAR-10",
        f"{top['ort'][0]:.2f} → {top['ort'][1]:.2f} % (ORT), {top['litert'][1]:.2f} % (LiteRT)",
        f"ORT {ratios['ort']:.2f} ×, LiteRT {ratios['litert']:.2f} ×",
        f"ORT {sizes['ort']:.2f} ×, LiteRT {sizes['litert']:.2f} × smaller",
        "cifar",
    )


def qat(record: Record) -> Iterator[Bought]:
    """Training while quantized, where quantizing afterwards loses points."""
    few = [row for row in record.results if not row["way"].endswith("8 bits")]
    if len(few) < 2:
        return
    after, trained = few[0], few[1]
    yield Bought(
        f"quantization-aware training, {record.settings['bits']}-bit weights",
        f"{_title(record.settings['model'])}, CIFAR-10",
        f"{after['ort int8']:.2f} → {trained['ort int8']:.2f} % (ORT), "
        f"{after['litert int8']:.2f} → {trained['litert int8']:.2f} % (LiteRT)",
        "as int8",
        "as int8",
        "qat",
    )


SUITES: dict[str, Callable[[Record], Iterator[Bought]]] = {
    "distill": distill,
    "pruning": pruning,
    "sparsity": sparsity,
    "cifar-resnet56": quantized,
    "qat": qat,
}


def rows(records: Path = frame.RECORDS) -> list[Bought]:
    """Return the rows of all suites that have a record."""
    found = {name: newest(name, records) for name in SUITES}
    return [
        row for name, record in found.items() if record is not None for row in SUITES[name](record)
    ]


def table(made: Sequence[Bought]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| technique | net and data | top-1 | faster, batch 1, 1 thread | file | suite |",
        "|---|---|---|---|---|---|",
    ]
    for row in made:
        cells = (row.technique, row.net, row.accuracy, row.time, row.size, f"`{row.suite}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(page: str, made: Sequence[Bought]) -> str:
    """Return the page with the table between its marks."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not rest or not tail:
        raise SystemExit(f"README.md has no place for the table: {BEGIN} … {END}")
    return f"{head}{BEGIN}\n\n{table(made)}\n\n{END}{tail}"


def _times(found: Sequence[dict[str, Any]], key: str, word: str = "") -> str:
    by_file = {row["file"]: row[key] for row in found}
    parts = []
    for runtime, title in (("ort", "ORT"), ("litert", "LiteRT")):
        known = [by_file.get(f"{runtime}-{scheme}") for scheme in ("fp32", "int8")]
        said = " / ".join("–" if value is None else f"{value:.2f}" for value in known)
        parts.append(f"{title} {said} ×")
    return f"{', '.join(parts)}{' ' + word if word else ''} (fp32 / int8)"


def _title(model: str) -> str:
    return model.replace("resnet", "ResNet-")


def main() -> int:
    """Write the table into the README and show it."""
    frame.parser(__doc__).parse_args()
    made = rows()
    README.write_text(written(README.read_text(), made))
    frame.stdout().print(table(made), markup=False, highlight=False, soft_wrap=True)
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
