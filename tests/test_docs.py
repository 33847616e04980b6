"""What README and docs say is so: commands compose, code runs, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import json
import re
import runpy
import shlex
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import users_cache
from tests.hub import Made
from torchopt2edge import api, converter, interfaces, types
from torchopt2edge._moved import KEYWORDS
from torchopt2edge.bench import flags
from torchopt2edge.conf import registry
from torchopt2edge.verdict import decide
from torchopt2edge.workflow import settings

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
CONFIGURED = ("optimize", "compare", "quantize", "bench", "report")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def typed(page: Path) -> Iterator[tuple[Path, list[str]]]:
    """Walk the commands of a page, each with the folder it is typed in."""
    for block in blocks(page, "bash"):
        folder = ROOT
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cd"]:
                folder = ROOT / words[1]
            elif words:
                yield folder, words


COMMANDS = [(page, *one) for page in PAGES for one in typed(page)]
OURS = [(f, w[1:]) for _, f, w in COMMANDS if w[0].endswith("torchopt2edge")]
CODE = [(page, code) for page in PAGES for code in blocks(page, "python")]


def tables(page: Path, heading: str) -> str:
    """Return the text under a heading, up to the next of any depth."""
    found = re.search(rf"^#+ {heading}.*?\n(.*?)(?=^#|\Z)", page.read_text(), re.M | re.S)
    assert found, heading
    return found[1]


def named(text: str) -> set[str]:
    return set(re.findall(r"`([^`\s]+)`", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not link.startswith("https://"):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_every_page_is_in_the_readme() -> None:
    links = re.findall(r"\]\((docs/[^)]+\.md)\)", PAGES[0].read_text())
    assert set(links) == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


def test_what_is_typed_is_known() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    for page, folder, words in COMMANDS:
        assert folder.is_dir(), (page.name, folder)
        if words[0] == "make":
            assert set(words[1:]) <= targets, (page.name, words)
        else:
            assert words[0] == "pip" or words[0].endswith("torchopt2edge"), (page.name, words)


def single_jobs(words: Sequence[str]) -> Iterator[list[str]]:
    """Take a sweep apart, as Hydra's sweeper does."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if "-m" not in words:
        yield list(words)
        return
    command, *rest = (word for word in words if word != "-m")
    parsed = OverridesParser.create().parse_overrides(rest)
    choices = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line]
        for one in parsed
    ]
    for job in itertools.product(*choices):
        yield [command, *map(str, job)]


@pytest.mark.parametrize(("folder", "words"), OURS, ids=[" ".join(w)[:70] for _, w in OURS])
def test_a_command_composes(
    folder: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torchopt2edge.cli.main import _parser, main

    monkeypatch.chdir(folder)
    if words[0] not in CONFIGURED:
        assert callable(_parser().parse_args(words).run)
        return
    for job in single_jobs(words):
        assert main([*job, "--cfg"]) == 0, capsys.readouterr().err
        assert yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(("page", "code"), CODE, ids=[page.name for page, _ in CODE])
def test_code_names_what_there_is(page: Path, code: str) -> None:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("torchopt2edge"):
            home = importlib.import_module(str(node.module))
            assert all(hasattr(home, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "t2e.compare",
            "t2e.optimize",
            "t2e.bench",
            "t2e.quantize",
        ):
            function = getattr(api, ast.unparse(node.func)[4:])
            known = {
                *inspect.signature(function).parameters,
                *settings.SETTINGS,
            }
            assert {keyword.arg for keyword in node.keywords if keyword.arg} <= known


def test_every_option_is_in_the_table_of_groups() -> None:
    table = tables(ROOT / "docs" / "cli.md", "Groups")
    for group in set(registry.groups()) - set(KEYWORDS):
        row = re.search(rf"^\| `{group}` \| (.*?)(?: \(|\|$)", table, re.M)
        assert row, group
        assert named(row[1]) == set(registry.options(group))


def test_every_setting_has_a_row() -> None:
    rows = re.findall(r"^\| (`.*?) \|", tables(ROOT / "docs" / "python-api.md", "compare"), re.M)
    assert named(" ".join(rows)) == set(settings.SETTINGS)


def test_the_timing_presets_are_what_the_table_says() -> None:
    table = tables(ROOT / "docs" / "verdict.md", "Measuring in turns")
    for path in (ROOT / "conf" / "timing").glob("*.yaml"):
        plan = yaml.safe_load(path.read_text())
        cells = [plan["min_samples"], f"{plan['min_seconds']:g}", plan["rounds"]]
        assert f"| `{path.stem}` | {' | '.join(map(str, cells))} |" in table


def test_every_flag_is_explained() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \|.*\| ([a-z ]+) \|$", tables(ROOT / "docs" / "verdict.md", "Flags"), re.M
    )
    known = set(re.findall(r'^        "([a-z-]+)": _', inspect.getsource(flags.assess), re.M))
    assert {flag for flag, _ in rows} == known
    assert {flag for flag, effect in rows if effect == "no winner"} == decide.INVALIDATING


def test_every_scheme_and_its_floor_are_in_the_table() -> None:
    page = (ROOT / "docs" / "schemes.md").read_text()
    for scheme in types.SCHEMES.values():
        floor = f"{scheme.min_sqnr_db:.0f} dB SQNR, {scheme.min_agreement:.0%}".replace("%", " %")
        assert re.search(rf"^\| `{scheme.name}` \|.*{re.escape(floor)}", page, re.M), scheme.name


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text()
    listed = re.findall(r"^\| ([a-z0-9-]+) \| \S", page, re.M)
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert sorted(set(listed) - {"package"}) == sorted(re.split(r"[<>=~]", n)[0] for n in needed)


# What runs: the README's code and the examples, on tiny nets, with the real converter.

MINE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), *pooled, nn.Linear(8, 10))
images = torch.randn(4, 3, 16, 16)
train_loader, test_loader = (
    DataLoader(TensorDataset(torch.randn(64, 3, 16, 16), torch.arange(64) % 10), batch_size=32)
    for _ in range(2)
)
"""


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory, sealed: converter.Environment
) -> dict[str, Any]:
    """Run the README's Python block, in little time and without PyTorch's row; return its names."""
    (code,) = blocks(ROOT / "README.md", "python")
    assert 'timing="quick"' in code
    assert 'out="outputs/mine"' in code
    folder = tmp_path_factory.mktemp("readme")
    (folder / "mine.py").write_text(MINE)
    names: dict[str, Any] = {}
    with users_cache(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        exec(code.replace('timing="quick"', 'timing="smoke", baseline=False'), names)
    names["folder"] = folder / "outputs" / "mine"
    return names


@pytest.mark.slow
def test_the_readmes_python_runs(shown: dict[str, Any]) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    rows = {row.candidate: row for row in shown["result"].rows}
    assert set(rows) == {"ort-fp32", "ort-int8", "litert-fp32", "litert-int8"}
    assert [row.err for row in rows.values()] == [None] * 4


@pytest.mark.slow
def test_a_run_leaves_what_the_page_lists(shown: dict[str, Any]) -> None:
    page = ROOT / "docs" / "report-files.md"
    assert {path.name for path in shown["folder"].iterdir()} <= {
        name.rstrip("/") for name in named(tables(page, "The files of a run"))
    }
    metrics, facts = named(tables(page, "metrics")), named(tables(page, "facts"))
    columns = named(tables(page, "rows.jsonl"))
    for line in (shown["folder"] / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert set(row) == columns
        assert set(row["metrics"]) <= metrics
        assert set(row["facts"]) <= facts
    kept = json.loads((shown["folder"] / "verdict.json").read_text())
    jsonschema.validate(kept, json.loads((ROOT / "docs" / "verdict.schema.json").read_text()))
    fields_of_it = re.findall(r"^\| (`.*?) \|", tables(page, "verdict.json"), re.M)
    assert set(kept) == named(" ".join(fields_of_it))
    context = json.loads((shown["folder"] / "context.json").read_text())
    assert set(context) <= named(tables(page, "context.json"))


@pytest.mark.slow
def test_the_pages_of_the_api_run(shown: dict[str, Any]) -> None:
    compare, metric, result, optimize, measure = blocks(ROOT / "docs" / "python-api.md", "python")
    assert "t2e.compare(" in compare
    names = dict(shown)
    for code in (metric, result, optimize, measure):
        exec(textwrap.dedent(code), names)
    from torchopt2edge.backends.ort.backend import Ort
    from torchopt2edge.store import identity
    from torchopt2edge.workflow.lowering import signature_in

    row = next(row for row in shown["result"].rows if row.candidate == "ort-int8")
    file = Path(row.facts["file"])
    scores = names["evaluate"](Ort().open(file, signature_in(file.parent), 1))
    assert -82 < scores["score"] <= 0
    assert identity(names["stages"])


@pytest.mark.slow
def test_a_strangers_script_runs(
    tmp_path: Path, sealed: converter.Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "examples" / "compare_module.py"
    ours = script.read_text().split("torchopt2edge ───")[1].split("# ───")[0]
    code = [line for line in ours.splitlines()[1:] if line.strip()]
    assert len(code) <= 5
    with users_cache():
        runpy.run_path(str(script), run_name="stranger")["main"]("smoke", str(tmp_path / "run"))
    rows = api.render(tmp_path / "run").rows
    assert [row.err for row in rows] == [None] * 5
    by_id = {row.candidate: row.metrics["top1"] for row in rows}
    assert by_id["torch-fp32"] > 70
    assert by_id["litert-int8"] > by_id["torch-fp32"] - 5
    assert "report.md" in capsys.readouterr().out


@pytest.mark.slow
def test_a_repository_of_ones_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: converter.Environment
) -> None:
    import torch

    from torchopt2edge.cli.main import main

    monkeypatch.chdir(ROOT / "examples" / "own_repo")
    monkeypatch.syspath_prepend(ROOT / "examples" / "own_repo")
    net = importlib.import_module("mynets").small(width=16)
    torch.save(net.state_dict(), tmp_path / "small.pth")
    cheap = ["schemes=[int8]", "baseline=false", "timing=smoke", f"out={tmp_path / 'run'}"]
    shown = [w for f, w in typed(ROOT / "examples" / "own_repo" / "README.md")]
    assert len(shown) == 3  # the third says the second without yaml; that it composes is enough
    for words, backend in zip(shown[:2], ("backend=[litert]", "backend=[ort]"), strict=True):
        given = [w.replace("small.pth", str(tmp_path / "small.pth")) for w in words[1:]]
        with users_cache():
            assert main([*given, *cheap, backend]) == 0, words
        (row,) = api.render(tmp_path / "run").rows
        assert row.err is None
        assert row.facts["n_eval"] == 540


def test_the_backend_of_the_page_is_one(
    tiny: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchopt2edge.evaluation.parity import verify
    from torchopt2edge.workflow.lowering import signature_in

    code, _ = blocks(ROOT / "docs" / "adding-a-backend.md", "python")
    backend = module("reference_backend", code, tmp_path, monkeypatch).Reference()
    assert isinstance(backend, interfaces.Backend)
    scheme = types.SCHEMES["fp32"]
    facts = backend.lower(interfaces.Sources(tiny.graph, tiny.graph), scheme, tmp_path)
    session = backend.open(tmp_path / facts["file"], signature_in(tmp_path), 1)
    inputs = {name: array[:4] for name, array in tiny.inputs.items()}
    reference = {"output": tiny.net.eval()(*map(as_tensor, inputs.values())).detach().numpy()}
    assert verify(session, inputs, reference, scheme).sqnr_db > 100
    assert backend.receipt()["runtime_version"]
    node = yaml.safe_load(blocks(ROOT / "docs" / "adding-a-backend.md", "yaml")[0])
    assert node["reference"]["_target_"].endswith(".Reference")


def test_the_stage_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from torchopt2edge.models.artifact import load_model, save_model
    from torchopt2edge.models.cifar_resnet import cifar_resnet

    _, code = blocks(ROOT / "docs" / "adding-a-backend.md", "python")
    stage = module("soup_stage", code, tmp_path, monkeypatch).Average(first="a", second="b")
    assert isinstance(stage, interfaces.Stage)
    factory = partial(cifar_resnet, depth=8)
    made = {}
    for role, seed in (("first", 0), ("second", 1)):
        torch.manual_seed(seed)
        save_model(factory(), factory, tmp_path / role)
        made[role] = types.Artifact("model", tmp_path / role, role)
    stage(made, tmp_path / "out")
    one, two, soup = (
        load_model(tmp_path / name).state_dict()["linear.weight"]
        for name in ("first", "second", "out")
    )
    torch.testing.assert_close(soup, (one + two) / 2)


def as_tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)


def module(name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a block of a page from a file, as a user would have it."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(name)
