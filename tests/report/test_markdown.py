from __future__ import annotations

import re

import pytest

from torchopt2edge.report.figure.standalone import figure_files
from torchopt2edge.report.markdown import escape, fence, render
from torchopt2edge.report.run_report import RunReport
from torchopt2edge.types import Verdict

STAGES = [
    {
        "name": "train",
        "seconds": 42.3,
        "cached": False,
        "facts": {"params": 310_000, "macs": 12.3e6, "top1_test": 97.5},
    },
    {"name": "prune", "seconds": 0.1, "cached": True, "facts": {"params": 90_000}},
    {"name": "export", "seconds": 3.2, "facts": {}},
]


def rendered(rows, verdict, **more) -> str:
    given = {"title": "digits", "stages": (), "environment": {}, "decisions": (), **more}
    return render(RunReport.of(rows, verdict, given))


def test_structure_of_the_whole_report(run) -> None:
    text = rendered(*run, stages=STAGES, environment={"command": "torchopt2edge optimize"})
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "# digits",
        "## Warnings",
        "## Candidates",
        "## Failed candidates",
        "## Rejected candidates",
        "## More charts",
        "## Stages",
        "## How it was measured",
        "## Limits of this report",
        "## How to reproduce",
    ]
    lead = text.split("\n## ")[0]
    assert lead.startswith("# digits\n\n**Ship pruned-litert-int8: ")
    assert "```bash\ntorchopt2edge optimize\n```" in text
    assert "\n\n\n" not in text
    assert text.endswith("\n")


def test_a_section_without_content_is_absent(make_row) -> None:
    text = rendered([make_row("ort-fp32", ms=2)], Verdict("ort-fp32"))
    heads = set(re.findall(r"^## (\w+)", text, re.MULTILINE))
    assert heads & {"Warnings", "Failed", "Rejected", "Stages"} == set()
    assert "```" not in text


def test_every_figure_of_a_run_is_linked_once(whole_report) -> None:
    text = render(whole_report)
    links = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
    assert sorted(links) == sorted(figure_files(whole_report.figures.values()))
    assert len(links) == 11
    assert links[:3] == [f"figures/{name}.svg" for name in ("trade-off", "latency", "file-size")]
    assert "\n\n\n" not in text
    for figure in whole_report.figures.values():
        assert escape(figure.caption) in text


def test_without_a_measurement_no_figure_is_linked() -> None:
    assert "![" not in rendered([], Verdict(None))


def test_every_table_has_rows_of_equal_width(run) -> None:
    text = rendered(*run, stages=STAGES)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_numbers_of_the_winner_and_of_the_stages(run) -> None:
    rows, verdict = run
    text = rendered(rows, verdict, stages=STAGES)
    line = next(line for line in text.splitlines() if line.startswith("| 2 | ★ pruned-litert-int8"))
    assert "| 96.7 (95.7–97.6) | −0.8 |" in line
    assert "| 1.00× |" in line
    assert "| train | 42 s | 310 k | 12.3 M | 97.5 % |" in text
    assert "| prune | from cache | 90.0 k |  |  |" in text
    assert "| export | 3.2 s |  |  |  |" in text


def test_how_it_was_measured_comes_from_the_receipts(run) -> None:
    text = rendered(*run, environment={"cpu": "a b", "versions": {"torch": "2.14.1"}})
    assert "| protocol | quick |" in text
    assert "| rounds | 12 |" in text
    assert "| threads | 1 |" in text
    for runtime in ("onnxruntime 1.31.1", "litert 2.3.0", "torch 2.14.1"):
        assert runtime in text
    assert "| cpu | a b |" in text
    assert "| versions | torch 2.14.1 |" in text


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "a|b|c",
        "`tick`` ``` x",
        "line\nbreak | --- |\n# Head",
        "[x](javascript:alert(1)) ![y](http://evil)",
        "**bold** _it_ ~~no~~ $a$ <!-- x -->",
        "https://evil.example @someone",
    ],
)
def test_hostile_names_are_shown_and_never_obeyed(make_row, make_failed, name: str) -> None:
    rows = [make_row(name, backend=name, scheme=name), make_failed("x-ort-int8", name)]
    rows[0].facts.update(runtime=name, flags=[name])
    verdict = Verdict(name, reasons=[name], warnings=[name])
    clean = [make_row("plain", backend="b", scheme="s"), make_failed("x-ort-int8", "plain")]
    clean[0].facts.update(runtime="plain", flags=["plain"])
    text = rendered(rows, verdict, title=name, environment={name: name}, stages=[{"name": name}])
    same = rendered(
        clean,
        Verdict("plain", reasons=["plain"], warnings=["plain"]),
        title="plain",
        environment={"plain": "plain"},
        stages=[{"name": "plain"}],
    )
    # Whatever the name, the document has the same skeleton.
    for structure in (
        r"^#+ ",
        r"^\|",
        r"(?<!\\)\|",
        r"(?<!\\)\[",
        r"<",
        r"(?<!\\)`",
        r"^\*\*",
        "://",
    ):
        count, expected = (len(re.findall(structure, t, re.MULTILINE)) for t in (text, same))
        assert count == expected, structure


def test_escape_leaves_ordinary_text_alone() -> None:
    assert escape("pruned-litert-int8 1.83× (1.79–1.88), −0.3") == (
        "pruned-litert-int8 1.83× (1.79–1.88), −0.3"
    )
    assert escape("a_b") == r"a\_b"
    assert escape("x < y & z") == "x &lt; y &amp; z"


def test_a_command_cannot_close_its_block() -> None:
    text = fence("run x\n```\n# not a head")
    lines = text.splitlines()
    assert lines[0] == "````bash"
    assert lines[-1] == "````"
    assert "run x" in lines


def test_warnings_of_stages_stand_on_top(make_row) -> None:
    stages = [
        {"name": "student", "facts": {"warning": "labels alone gave more", "top1_test": 90.0}},
        {"name": "sparse", "facts": {"zeros": 0.7, "top1_test": 89.0}},
    ]
    text = rendered([make_row("ort-fp32")], Verdict(None), stages=stages)
    assert text.index("- student: labels alone gave more") < text.index("## Candidates")
    lines = text.splitlines()
    head, sparse = (next(x for x in lines if x.startswith(y)) for y in ("| stage ", "| sparse "))
    at = head.split(" | ").index("zeros %")
    assert sparse.split(" | ")[at] == "70.0"
