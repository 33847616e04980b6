from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from torchopt2edge.report import run_folder
from torchopt2edge.report.html.run import render as render_report
from torchopt2edge.report.run_report import RunReport
from torchopt2edge.report.text.row_view import plain
from torchopt2edge.types import Measurement, Verdict

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "{{ 7 * 7 }}{% include 'x' %}",
    "</style><style>*{display:none}",
    "]]></svg><b>",
    "x" * 300,
    "نموذج-صغير‮-int8",
)
SECTIONS = [
    "warnings",
    "result",
    "trade-off",
    "latency",
    "distribution",
    "rounds",
    "sustained-run",
    "accuracy",
    "start-up",
    "file-size",
    "memory",
    "energy",
    "placement",
    "operators",
    "quantization",
    "pruning",
    "stages",
    "environment",
    "reproduce",
    "limits",
]


def render(rows, verdict, context) -> str:
    return render_report(RunReport.of(rows, verdict, context))


VOID = {"meta", "link", "img", "br", "hr", "input"}


class Tree(HTMLParser):
    """The tags and attributes of a page; complains of one that is not closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def keys(page: str) -> list[str | None]:
    return [attrs["id"] for attrs in Tree(page).all("section")]


def test_a_whole_run_has_every_section_in_order(whole) -> None:
    page = render(*whole)
    assert keys(page) == SECTIONS
    assert RunReport.of(*whole).headline in page
    assert len(Tree(page).all("h1")) == 1


def test_what_has_no_data_is_absent(make_row, context) -> None:
    bare = Measurement("ort-fp32", "ort", "fp32", metrics={"size_mb": 3.0})
    assert keys(render([bare], Verdict(None), context())) == ["result", "file-size", "limits"]
    assert keys(render([], Verdict(None), context())) == ["limits"]
    without = render([make_row("ort-fp32", top1=None)], Verdict(None), context())
    assert "accuracy" not in keys(without)
    assert "Latency against file size" in without


def test_every_reference_has_its_target_and_no_key_comes_twice(whole) -> None:
    tree = Tree(render(*whole))
    ids = [attrs["id"] for _, attrs in tree.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {
        one
        for _, attrs in tree.tags
        for name in ("aria-labelledby", "aria-describedby")
        for one in (attrs.get(name) or "").split()
    }
    wanted |= {(attrs["href"] or "").removeprefix("#") for attrs in tree.all("a")}
    assert wanted <= set(ids)


def test_nothing_is_loaded_from_elsewhere(whole) -> None:
    page = render(*whole)
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page
    tree = Tree(page)
    assert not [attrs for _, attrs in tree.tags if {"src", "srcset", "style"} & set(attrs)]
    assert {tag for tag, _ in tree.tags} & {"link", "iframe", "img", "object", "base"} == set()
    policy = next(a["content"] for a in tree.all("meta") if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_text(whole, name: str) -> None:
    rows, verdict, _ = whole
    calm = Tree(render(*whole))
    hostile = {
        "candidate": name,
        "backend": name,
        "scheme": name,
        "device": name,
        "protocol": name,
        "facts": {
            **rows[0].facts,
            "flags": [name],
            "warnings": {name: name},
            "notes": [name],
            "metric": "top1",
            "profile": [{"name": name, "type": name, "ms": 1, "share": 5}],
            "placement": {"nodes": 1, "fallback": {name: 2}},
        },
    }
    changed = [replace(rows[0], **hostile), *rows[1:-1], replace(rows[-1], err=name)]
    said = replace(verdict, reasons=[name], warnings=[name], rejected={name: name})
    stage = {"name": name, "facts": {"channels": {name: [4, 2]}, "kept": {name: name}}}
    ranking = [{"op": name, "op_type": name, "macs": 1, "only_db": 3.0, "without_db": 4.0}]
    decision = {"group": name, "origin": name, "why": name, "excluded": [name]}
    page = render(
        changed,
        said,
        {
            "title": name,
            "stages": [stage],
            "environment": {name: name, "device": {name: name}, "command": name},
            "decisions": [{**decision, "sensitivity": ranking}],
        },
    )
    tree = Tree(page)
    assert len(tree.all("script")) == len(calm.all("script")) == 1
    assert len(tree.all("style")) == 1
    assert not tree.all("img")
    assert not [a for _, a in tree.tags if any(key.startswith("on") for key in a)]
    assert tree.text.count(plain(name)) >= 20


def test_equal_input_gives_equal_text(whole) -> None:
    assert render(*whole) == render(*whole)


def test_what_a_folder_keeps_renders_the_same(whole, tmp_path) -> None:
    rows, verdict, context = whole
    run_folder.write(tmp_path, rows, verdict, **context)
    assert render(*run_folder.read(tmp_path)) == render(rows, verdict, context)


def test_many_samples_stay_small(whole) -> None:
    rows, verdict, context = whole
    many = [
        replace(
            row,
            latency_ns=[[ns + i for i in range(14) for ns in each] * 3 for each in row.latency_ns],
        )
        for row in rows
    ]
    assert sum(map(len, many[0].latency_ns)) > 20_000
    assert len(render(many, verdict, context).encode()) < 1_000_000


@pytest.mark.parametrize("value", ["unavailable", None, float("nan"), float("inf"), True])
def test_a_fact_that_is_no_number_is_left_out(whole, value: object) -> None:
    rows, verdict, context = whole
    facts = {
        **rows[0].facts,
        "began_s": [value] * 12,
        "sensors": [{"temperature_c": value}] * 12,
        "watched": {"at_s": [value] * 3, "temperature_c": [value, 41.0]},
        "sustained": {"kept": value, "onset_s": value, "first_minute_ms": value},
        "profile": [{"name": "x", "type": "Conv", "ms": value, "share": value}],
        "placement": {"nodes": value, "macs": value},
    }
    metrics = dict.fromkeys(("energy_mj", "load_ms", "top1_low", "latency_high_ms"), 1.0)
    if isinstance(value, float):
        metrics = dict.fromkeys(metrics, value)
    strange = replace(rows[0], facts=facts, metrics={**rows[0].metrics, **metrics})
    page = render([strange, *rows[1:]], verdict, context)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', page.replace('data-value="inf"', ""))


def test_roles_are_said_in_words(whole) -> None:
    rows, verdict, context = whole
    page = render(rows, verdict, context)
    assert "★ winner · Pareto set" in page
    assert f"○ rejected: {verdict.rejected['pruned-ort-int8']}" in page
    tied = Verdict(None, ("dense-ort-fp32", "dense-litert-fp32"))
    assert page.count("= tie") == 0
    assert render(rows, tied, context).count("= tie") == 2


def test_the_stages_table_goes_from_float_to_files(whole) -> None:
    page = render(*whole)
    body = page[page.index('id="stages"') :]
    found = [body.index(f"<bdi>{name}</bdi>") for name in ("student", "pruned", "distilled", "qat")]
    assert found == sorted(found)
    assert found[-1] < body.index("<bdi>pruned-litert-int8</bdi>")


def test_a_number_stays_with_its_unit_and_an_interval_whole(whole) -> None:
    """A line break inside of either reads as two numbers."""
    rows, verdict, context = whole
    said = "dense-ort-fp32 is 2.04× faster (95 % 2.00–2.08), 1.35 ms"
    page = render(rows, replace(verdict, reasons=[said]), context)
    assert "(95\u00a0% 2.00\u2060–\u20602.08), 1.35\u00a0ms" in page


def test_nested_facts_of_a_device_are_text(whole) -> None:
    rows, verdict, context = whole
    classes = [{"name": "big", "cores": [4, 5]}, {"name": "little", "cores": [0, 1]}]
    told = {**context, "environment": {"device": {"core_classes": classes}}}
    page = render(rows, verdict, told)
    assert "name big, cores 4, 5; name little, cores 0, 1" in page
    assert "{" not in re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)


def test_sustained_speed_is_throughput_and_not_the_median(whole) -> None:
    rows, verdict, context = whole
    skewed = [[1_000_000] * 9 + [11_000_000]] * 12  # a median of 1 ms, 2 ms each on the whole
    kept = {"first_minute_ms": 2.0, "last_minute_ms": 2.0, "kept": 100.0, "onset_s": None}
    one = replace(rows[1], latency_ns=skewed, facts={**rows[1].facts, "sustained": kept})
    page = render([one], verdict, context)
    assert page.count(">102 %<") == 2, "the drawing's range, wide and narrow"


def test_the_fall_is_drawn_where_it_lies_in_the_run(whole) -> None:
    """A candidate's onset counts its own timed seconds; others may have run before it."""
    rows, verdict, context = whole
    kept = {"first_minute_ms": 2.0, "last_minute_ms": 4.0, "kept": 50.0, "onset_s": 15.0}
    began = [600.0 + 11.0 * i for i in range(12)]  # ten seconds each, and one between them
    facts = {"sustained": kept, "began_s": began, "sensors": ()}
    one = replace(rows[1], latency_ns=[[10_000_000_000]] * 12, facts={**rows[1].facts, **facts})
    page = render([one], verdict, context)
    drawing = page[page.index('id="sustained-wide-t"') :].partition("</svg>")[0]
    (at,) = re.findall(r'class="dashed" d="M([\d.]+)', drawing)
    found = re.findall(r' x="([\d.]+)" y="73">(\d+)<', drawing)
    ticks = {float(text): float(x) for x, text in found}
    low, high = ticks[600.0], ticks[700.0]
    assert (float(at) - low) / (high - low) * 100 == pytest.approx(16.0, abs=1.0)
