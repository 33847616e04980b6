"""Whatever can be set is told: every key of conf/ on its page, defaults, anchors, suites."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchopt2edge.devices import Local
from torchopt2edge.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
DOCS, CONF = ROOT / "docs", ROOT / "conf"
README = ROOT / "README.md"
EVERY = [README, ROOT / "benchmarks" / "README.md", *sorted(DOCS.glob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Where the keys of a group are told; the keys of a command may stand on any page.
HOME = {
    "_recipe": ("training",),
    "_teaching": ("distillation",),
    "data": ("data",),
    "device": ("devices",),
    "model": ("models",),
    "timing": ("verdict",),
    "task": ("tasks",),
}
# A stage's own keys; what all that train share is told with the recipe and the teaching.
STAGES = {
    "pruned": "pruning",
    "qat": "qat",
    "sparse": "sparsity",
    "student": "distillation",
}
SHARED = ("training", "distillation")


def pages(file: Path) -> list[Path]:
    """Return the pages on which the keys of a yaml are looked for."""
    group = file.parent.name
    if group == "stage":
        names: tuple[str, ...] = (STAGES.get(file.stem, "training"), *SHARED)
    else:
        names = HOME.get(group, ())
    return [DOCS / f"{name}.md" for name in names] or EVERY


def coded(page: Path) -> set[str]:
    """Return the words that a page sets as code."""
    text = page.read_text()
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    return {word for code in (*FENCED.findall(text), *spans) for word in re.findall(r"\w+", code)}


def keys(node: Any) -> Iterator[str]:
    """Walk the keys of a config; the arguments of a model are told with the models."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if key[0] != "_" and key not in ("defaults", "hydra"):
            yield key
            if not (isinstance(value, Mapping) and "_partial_" in value):
                yield from keys(value)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize(
    "file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF))
)
def test_every_key_is_told(file: Path) -> None:
    found = set(keys(yaml.safe_load(file.read_text())))
    if file.parent.name == "stage":
        found -= {file.stem}
    told = {word for page in pages(file) for word in coded(page)}
    assert found <= told, (found - told, [page.name for page in pages(file)])


@pytest.mark.parametrize("page", EVERY, ids=lambda page: str(page.relative_to(ROOT)))
def test_an_anchor_is_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        if anchor and not link.startswith("https://"):
            assert anchor in anchors(page.parent / file if file else page), link


@pytest.mark.parametrize("page", EVERY, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_suite_that_is_named_is_there(page: Path) -> None:
    for suite in re.findall(r"SUITE=([a-z]+)", page.read_text()):
        assert (ROOT / "benchmarks" / f"{suite}.py").is_file(), suite


def plain(cell: str) -> Any:
    """Read a default as the page writes it: ``0.5 and 0.75`` is a tuple."""
    parts = [yaml.safe_load(part.split(" epoch")[0].strip("` ")) for part in cell.split(" and ")]
    return None if parts == ["none"] else tuple(parts) if len(parts) > 1 else parts[0]


def test_the_defaults_of_the_recipe_are_told() -> None:
    """One value for several names is that of each."""
    text = (DOCS / "training.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \| (.+?) \|", text, re.MULTILINE)
    told = {}
    for names, values in rows:
        one, each = re.findall(r"`(\w+)`", names), [plain(cell) for cell in values.split(", ")]
        told |= dict(zip(one, each * len(one) if len(each) == 1 else each, strict=True))
    told["logger"] = told["logger"] or "none"  # the word itself
    recipe = Recipe()
    known = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    del known["task"]
    assert told == {**known, "weight_decay": told["weight_decay"], "precision": 32}
    assert float(told["weight_decay"]) == recipe.weight_decay
    assert recipe.precision == "32"


def test_every_fact_of_a_receipt_is_told() -> None:
    """What the two other runners and the machine say; the Python runner's rows are test_docs'."""
    package = ROOT / "torchopt2edge"
    runner, web = package / "runner", package / "devices" / "web"
    native = (runner / "native" / "runner.c").read_text().split("put_receipt(Runner")[1]
    page = (web / "runner.mjs").read_text().split("function surroundings()")[1].split("}")[0]
    said = {
        *re.findall(r'\\"(\w+)\\":', native.split("\nstatic ")[0]),
        *re.findall(r"^ +(\w+): ", page, re.MULTILINE),
        *Local().facts(),
    } - {"receipt"}
    assert {"compiler", "user_agent", "device_threads"} <= said
    assert said <= coded(DOCS / "report-files.md")
