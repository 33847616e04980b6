"""The shape of the package, read off its source: who may import whom, and how long things are.

Arrows go down the layers. Within a layer rooms do not know each other, except where `SIBLINGS`
says so. A room is a folder of the package with all that lies in it, or a file beside the folders.
Imports inside functions and for types count as any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

NAME = "torchopt2edge"
PACKAGE = Path(__file__).parents[1] / NAME
CONF = PACKAGE.parent / "conf"  # installed as a package of the root
FILES = {
    **{path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))},
    **{f"conf/{path.name}": path for path in sorted(CONF.glob("*.py"))},
}
TREES = {name: ast.parse(path.read_text(), name) for name, path in FILES.items()}
CHILD = "converter/child.py"  # a script of the sealed environment, never imported

LAYERS = (
    {"__main__"},
    {"cli"},
    {"api"},
    {"workflow"},
    {"bench", "report"},
    {"deploy", "stages", "integrations", "verdict"},
    {"devices", "backends", "compression"},
    {"runner", "converter", "quantize", "training", "evaluation"},
    {"interfaces", "store", "samples", "stats", "data", "models", "tasks"},
    {"types", "identity"},
    {"preprocessing", "conf"},
    {"errors", "_moved", "_version"},
)
SIBLINGS = {
    ("models", "store"),  # a kept model holds the digest of the code that builds it
}
TOP = {  # what may be imported at the top of a module besides numpy, so that importing is cheap
    "stages": {"torch"},
    "training": {"torch"},
    "compression": {"torch"},
    "integrations": {"torch"},
    "models": {"torch"},
    # A subclass needs its base; these are imported late.
    "training/fit.py": {"torch", "lightning"},
    "integrations/lightning.py": {"torch", "lightning"},
    "stages/qat_quantizers.py": {"torch", "torchao"},
}


PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
MARKS = "<!-- layers: drawn -->\n", "<!-- layers: end -->"


def room(name: str) -> str:
    """Return the room of a file: its folder, or its stem."""
    return name.partition("/")[0].removesuffix(".py")


def imported(node: ast.AST) -> list[str]:
    """Return what one statement imports, names of the package's root in full."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module == NAME:
        return [f"{NAME}.{alias.name}" for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def taken(node: ast.AST, known: set[str]) -> set[str]:
    """Return the modules of ours that one statement imports, submodules in full."""
    if not isinstance(node, ast.ImportFrom):
        return set(imported(node)) & known
    full = {f"{node.module}.{alias.name}": node.module or "" for alias in node.names}
    return {one if one in known else home for one, home in full.items()} & known


def arrows() -> Iterator[tuple[str, str, str]]:
    """Yield (file, its room, the room it imports)."""
    for name, tree in TREES.items():
        for target in (module for node in ast.walk(tree) for module in imported(node)):
            head, _, rest = target.partition(".")
            if head == NAME and rest and name not in ("__init__.py", CHILD):
                yield name, room(name), rest.partition(".")[0]


def at_the_top(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported when the module is: not in functions, not for types."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield from imported(node)
        yield from at_the_top(node)


def test_every_room_has_a_layer() -> None:
    rooms = {room(name) for name in FILES} - {"__init__"}
    assert rooms == set().union(*LAYERS)


def test_few_files_lie_outside_the_folders() -> None:
    """The face of the package, and what the author of a plug-in imports."""
    assert len([name for name in FILES if "/" not in name]) <= 9


def test_arrows_go_down() -> None:
    depth = {name: at for at, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        f"{name} imports {theirs}"
        for name, ours, theirs in arrows()
        if ours != theirs and depth[theirs] <= depth[ours] and (ours, theirs) not in SIBLINGS
    ]
    assert wrong == []


def test_imports_go_in_no_circle() -> None:
    """Not even for types, and not within a room either."""
    modules = {name: name.removesuffix(".py").removesuffix("/__init__") for name in FILES}
    known = {f"{NAME}.{stem.replace('/', '.')}" for stem in modules.values()}
    graph = {}
    for name, stem in modules.items():
        nodes = ast.walk(TREES[name]) if name not in ("__init__.py", CHILD) else ()
        own = f"{NAME}.{stem.replace('/', '.')}"
        graph[own] = {one for node in nodes for one in taken(node, known)} - {own}
    order = TopologicalSorter(graph).static_order()  # raises CycleError, which names the circle
    assert len([*order]) >= len(FILES)


def test_every_listed_sibling_is_needed() -> None:
    assert {(ours, theirs) for _, ours, theirs in arrows()} >= SIBLINGS


@pytest.mark.parametrize("name", [name for name in FILES if name != CHILD])
def test_importing_a_module_is_cheap(name: str) -> None:
    found = {module.partition(".")[0] for module in at_the_top(TREES[name])}
    allowed = {NAME, "numpy"} | TOP.get(room(name), set()) | TOP.get(name, set())
    assert found - sys.stdlib_module_names <= allowed


def test_what_is_late_stays_late() -> None:
    late = {
        f"{NAME}.training.fit",
        f"{NAME}.integrations.lightning",
        f"{NAME}.stages.qat_quantizers",
    }
    assert not [name for name, tree in TREES.items() if late & set(at_the_top(tree))]


@pytest.mark.parametrize(
    ("modules", "home"),
    [({"hydra", "omegaconf"}, "cli/compose.py"), ({"tensorflow", "onnx2tf"}, CHILD)],
)
def test_only_one_file_knows(modules: set[str], home: str) -> None:
    knowing = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if {module.partition(".")[0] for module in imported(node)} & modules
    }
    assert knowing == {home}


def test_no_relative_imports() -> None:
    nodes = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]
    assert not [n for n, node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_nothing_is_printed() -> None:
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and name != CHILD
    ]
    assert calls == []


def test_errors_are_caught_by_name() -> None:
    """Except where a process or a thread ends: there every failure becomes an answer."""
    broad = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(last, ast.Raise) and last.exc is None for last in node.body[-1:])
    }
    assert broad == {"errors.py", "runner/runner.py", "workflow/lowering.py", CHILD}


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name: str) -> None:
    assert len(FILES[name].read_text().splitlines()) <= 400
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len([one for one in given if one.arg != "self"]) <= 7, node.name


def purpose(name: str) -> str:
    """Return the first sentence of a room's docstring."""
    path = FILES.get(f"{name}/__init__.py", PACKAGE / f"{name}.py")
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, f"{name} does not say what it is for"
    return " ".join(text.partition("\n\n")[0].split())


def drawing() -> str:
    """Draw the layers, and say what each room is for."""
    lines = ["```mermaid", "flowchart TD"]
    for at, layer in enumerate(LAYERS):
        names = " · ".join(sorted(layer))
        lines.append(f'    layer{at}["{names}"]')
    lines += [f"    layer{at} --> layer{at + 1}" for at in range(len(LAYERS) - 1)]
    lines += ["```", "", "| layer | package or module | what it is for |", "|---|---|---|"]
    for at, layer in enumerate(LAYERS, 1):
        lines += [f"| {at} | `{name}` | {purpose(name)} |" for name in sorted(layer)]
    listed = "; ".join(f"`{ours}` imports `{theirs}`" for ours, theirs in sorted(SIBLINGS))
    return "\n".join([*lines, "", f"Exceptions within a layer: {listed or 'none'}.", ""])


def page() -> str:
    """Return the page of the architecture with its layers drawn."""
    head, _, rest = PAGE.read_text().partition(MARKS[0])
    return f"{head}{MARKS[0]}{drawing()}{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def test_the_page_shows_these_layers() -> None:
    assert PAGE.read_text() == page(), "make architecture"


if __name__ == "__main__":
    PAGE.write_text(page())
