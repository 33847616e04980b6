from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET

from torchopt2edge.report.figure.figure import draw
from torchopt2edge.report.figure.style import Look, literal
from torchopt2edge.report.text.row_view import lines
from torchopt2edge.types import Measurement, Verdict


def size_of(png: bytes) -> tuple[int, int]:
    """Read the width and height in a PNG's header."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def inked(png: bytes) -> float:
    """Return the share of pixels that are not white."""
    import io

    from matplotlib import image

    pixels = image.imread(io.BytesIO(png))[..., :3]
    return float((pixels.min(axis=-1) < 0.99).mean())


def checked(rows: list[Measurement], verdict: Verdict, title: str = "title") -> tuple[int, int]:
    return checked_texts(rows, verdict, title)[1]


def checked_texts(
    rows: list[Measurement], verdict: Verdict, title: str = "title"
) -> tuple[list[str], tuple[int, int]]:
    """Draw; return every text in the drawing, which keeps each as a comment, and its size."""
    files = draw(rows, verdict, title=title)
    assert set(files) == {"report.png", "report.svg"}
    assert ET.fromstring(files["report.svg"]).tag.endswith("svg")
    assert inked(files["report.png"]) > 0.005
    said = re.findall(r"<!-- (.*?) -->", files["report.svg"].decode(), re.DOTALL)
    return said, size_of(files["report.png"])


def test_the_figure_of_a_whole_run_grows_with_its_rows(run, make_row) -> None:
    rows, verdict = run
    wide, high = checked(rows, verdict)
    assert wide == 1800
    more = [make_row(f"m{i}-ort-fp32", ms=1 + i / 3, top1=96 + i / 8) for i in range(6)]
    assert checked(rows + more, verdict)[1] > high


NOTHING = "nothing was measured that can be compared"


def test_nothing_to_draw_is_still_a_figure_that_says_so(make_failed) -> None:
    said, _ = checked_texts([], Verdict(None))
    assert {NOTHING, "No winner: nothing was measured."} <= set(said)
    said, _ = checked_texts([make_failed("ort-int8", "crash\nat 0x0")], Verdict(None))
    assert {NOTHING, "failed: crash at 0x0"} <= set(said)
    said, _ = checked_texts(
        [Measurement("ort-fp32", "ort", "fp32", metrics={"size_mb": 3.0})], Verdict(None)
    )
    assert {NOTHING, "not measured", "3.00"} <= set(said)


def test_one_row_and_rows_without_metric_or_size(make_row) -> None:
    said, _ = checked_texts([make_row("ort-fp32")], Verdict("ort-fp32"))
    assert {"winner", "1.00", "area: file size"} <= set(said)
    assert "tie" not in said
    both = [make_row("ort-int8", top1=None), make_row("litert-int8", top1=None)]
    said, _ = checked_texts(both, Verdict(None, ("ort-int8", "litert-int8")))
    assert {"tie", "ONNX Runtime", "LiteRT", "Latency against file size"} <= set(said)
    assert "winner" not in said
    said, _ = checked_texts([make_row("ort-fp32", top1=None, size=None)], Verdict(None))
    assert NOTHING in said
    assert "area: file size" not in said


def test_values_at_the_edges(make_row) -> None:
    said, _ = checked_texts([make_row("ort-fp32", ms=1e-9, top1=0.0, size=0.0)], Verdict(None))
    assert NOTHING not in said, "zero is a value"
    assert "latency (ms)" in said
    wide = [make_row("a-ort-fp32", ms=0.01), make_row("b-ort-fp32", ms=9000)]
    said, _ = checked_texts(wide, Verdict(None))
    assert {"latency (ms, logarithmic)", "0.01", "10000"} <= set(said)


def test_hostile_names_draw(make_row, make_failed) -> None:
    names = [
        "$\\frac{1}{0}$",
        "$",
        "a\\$b$c",
        "🚀漢字",
        "<b>&amp;",
        "x" * 300,
        "\x1b[31m\n",
        "^_{}",
    ]
    rows = [make_row(name, backend=name, scheme=name, flags=[name]) for name in names]
    rows.append(make_failed("x-ort-int8", names[0] + names[4]))
    verdict = Verdict(
        names[0], ratios={name: (1.0, 1.0, 1.0) for name in names}, pareto=tuple(names)
    )
    assert checked(rows, verdict, title=names[0] + names[2])[0] == 1800


def test_the_users_settings_do_not_show_and_are_left_alone(run) -> None:
    import matplotlib

    rows, verdict = run[0][:2], run[1]
    plain = draw(rows, verdict, title="t")["report.svg"]
    with matplotlib.rc_context({"font.family": "serif", "axes.facecolor": "black"}):
        before = dict(matplotlib.rcParams)
        assert draw(rows, verdict, title="t")["report.svg"] == plain
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_needed(run) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from torchopt2edge.report.figure.figure import draw\n"
        "from torchopt2edge.types import Verdict\n"
        "assert 'matplotlib' not in sys.modules\n"
        "draw([], Verdict(None), title='t')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_colour_says_the_runtime_and_marker_the_scheme(run, make_row) -> None:
    rows, verdict = run
    table = lines([*rows, make_row("n-x-q4", backend="ncnn", scheme="q4")], verdict)
    look = Look.of(table)
    assert len(set(look.colours.values())) == len({line.row.backend for line in table}) == 4
    assert len(set(look.markers.values())) == len({line.row.scheme for line in table}) == 4


def test_literal_text_is_what_the_font_can_show() -> None:
    assert literal("a$b$") == r"a\$b\$"
    assert literal("🚀x") == "□x"
    assert len(literal("y" * 300)) == 44
