"""Which edits of a definition change its text, and what it refers to."""

from __future__ import annotations

import hashlib

import pytest

from torchopt2edge.identity.module import Module, read

GOLDEN = "6ee2ef23294d6874815966a9afb4052cf3a94adbc024fb63943f8135ed343344"

BEFORE = '''
from __future__ import annotations

import logging
import numpy as np
from torchopt2edge.errors import DataError
from torchopt2edge.quantize.graph import prepare
from torchopt2edge.types import Ranges as Bounds

_LOG = logging.getLogger("x")
LIMIT = 3
TABLE = {"one": 1}
TABLE["two"] = 2


def scale(values: list[float], factor: float = 2.0) -> list[float]:
    """Scale values."""
    assert values, "no values"
    if factor < 0:
        raise DataError(f"{factor} is negative", hint="give a positive one")
    _LOG.info("scaled %d", len(values))
    found: list[float] = [value * factor for value in values if value < LIMIT]  # a comment
    return found
'''


def text_of(source: str, name: str = "scale") -> list[str]:
    """Return the digests of a definition."""
    return [one.piece.digest for one in read(source.encode()).by_name[name]]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # a comment", ""),
        ('    """Scale values."""\n', ""),
        ("Scale values.", "Other words."),
        (", factor: float = 2.0", ",\n    factor: float = 2.0,\n"),
        ("if factor < 0:", "if (factor < 0):"),
        ('"no values"', '"nothing"'),
        ('f"{factor} is negative", hint="give a positive one"', '"wrong"'),
        ("scaled %d", "did scale %d"),
        (") -> list[float]:", "):"),
        ("found: list[float] = ", "found = "),
        ("import numpy as np\n", "import scipy\n"),
        ("LIMIT = 3", "LIMIT = 4"),  # it counts as a definition of its own
        ("from torchopt2edge.types import Ranges as Bounds\n", ""),
    ],
)
def test_what_does_not_change_the_text(old: str, new: str) -> None:
    assert old in BEFORE
    assert text_of(BEFORE.replace(old, new)) == text_of(BEFORE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value * factor", "value + factor"),
        ("2.0", "2.5"),
        ("factor < 0", "factor <= 0"),
        ("raise DataError(", "return print("),
        ("if value < LIMIT", ""),
        ("    return found", "    return list(found)"),
        ("assert values, ", "assert not values, "),
        ("def scale(values", "def scale(*values"),
        ("def scale", "@staticmethod\ndef scale"),
    ],
)
def test_what_changes_the_text(old: str, new: str) -> None:
    assert old in BEFORE
    assert text_of(BEFORE.replace(old, new)) != text_of(BEFORE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("f'{x}a' 'b'", "f'{x}ab'", True),
        ("f'{x!r}'", "f'{x}'", False),
        ("'a' 'b'", '"ab"', True),
        ("1_000", "1000", True),
        ("1", "True", False),
        ("1", "1.0", False),
        ("b'a'", "'a'", False),
        ("{'a': x}", "{'a': y}", False),
        ("[*x]", "[x]", False),
        ("x if y else z", "(x if y else z)", True),
        ("lambda a: a", "lambda a: (a)", True),
        ("x.a.b", "x.b.a", False),
        ("x and y and z", "x and (y and z)", False),
    ],
)
def test_expressions(one: str, other: str, same: bool) -> None:
    first, second = (text_of(f"def scale(x, y, z):\n    return {e}\n") for e in (one, other))
    assert (first == second) is same


def references(source: str, name: str = "scale") -> set[tuple[str, str, str]]:
    """Return what a definition refers to."""
    found = read(source.encode()).by_name[name]
    pieces = [one.piece for one in found] + [piece for one in found for _, piece in one.members]
    return {tuple(ref) for piece in pieces for ref in piece.references}


def test_a_constant_a_table_and_its_changes_are_definitions() -> None:
    module = read(BEFORE.encode())
    assert len(module.by_name["TABLE"]) == 2
    assert ("use", "", "LIMIT") in references(BEFORE)
    assert text_of(BEFORE, "LIMIT") != text_of(BEFORE.replace("LIMIT = 3", "LIMIT = 4"), "LIMIT")


def scale(body: str, top: str = "") -> set[tuple[str, str, str]]:
    """Return what a function with this body refers to."""
    return references(f"{top}\nLIMIT = 1\n\n\ndef scale(given):\n    {body}\n")


@pytest.mark.parametrize(
    ("top", "body", "found"),
    [
        ("import numpy as np", "return np.linalg.norm(given)", ("use", "numpy", "linalg.norm")),
        ("import a.b", "return a.b.c(given)", ("use", "a", "b.c")),
        ("import a.b as m", "return m.c(given)", ("use", "a.b", "c")),
        ("from a import b as c", "return c(given)", ("use", "a", "b")),
        ("from a import b", "return b.c.d(given)", ("use", "a", "b.c.d")),
        ("from .a import b", "return b(given)", ("use", ".a", "b")),
        ("", "from a import b; return b.c(given)", ("use", "a", "b.c")),
        ("from a import b", "return [b(x) for x in given]", ("use", "a", "b")),
        ("from a import b", "return lambda x: b", ("use", "a", "b")),
        ("from a import b", "return f'{b}'", ("use", "a", "b")),
        ("", "return LIMIT", ("use", "", "LIMIT")),
        ("", "return [LIMIT for given in LIMIT]", ("use", "", "LIMIT")),
    ],
)
def test_a_name_refers_to_what_it_is_bound_to(
    top: str, body: str, found: tuple[str, str, str]
) -> None:
    assert found in scale(body, top)


@pytest.mark.parametrize(
    "body",
    [
        "LIMIT = 2; return LIMIT",
        "return [LIMIT for LIMIT in given]",
        "return lambda LIMIT: LIMIT",
        "for LIMIT in given: return LIMIT",
        "with given as LIMIT: return LIMIT",
        "return (LIMIT := given) + LIMIT",
    ],
)
def test_a_local_name_refers_to_nothing(body: str) -> None:
    assert ("use", "", "LIMIT") not in scale(body)


def test_a_global_name_that_is_set_inside_is_the_modules() -> None:
    assert ("use", "", "LIMIT") in scale("global LIMIT; LIMIT = 2")
    nested = "LIMIT = 2\n    def inner():\n        {} LIMIT\n        LIMIT = 3"
    assert ("use", "", "LIMIT") in scale(nested.format("global"))
    assert ("use", "", "LIMIT") not in scale(nested.format("nonlocal"))


def test_an_annotation_names_a_type_and_does_not_count_as_text() -> None:
    plain = "class Ends: pass\n\n\ndef scale(given{}): return given\n"
    for annotation in (": Ends", ": list[Ends]", ": 'Ends | None'"):
        source = plain.format(annotation)
        assert ("type", "", "Ends") in references(source)
        assert text_of(source) == text_of(plain.format(""))


def test_a_module_that_is_moved_or_named_otherwise_changes_no_text() -> None:
    source = "from torchopt2edge.{} import prepare{}\n\n\ndef scale(): return {}.load()\n"
    before = text_of(source.format("quantize", "", "prepare"))
    assert text_of(source.format("graph", "", "prepare")) == before
    assert text_of(source.format("graph.tools", " as tools", "tools")) == before


CLASS = '''
from dataclasses import dataclass, field


def helper(): return 1


@dataclass(frozen=True)
class Step:
    """A step."""

    width: int = field(default=8)
    name = "step"

    @property
    def half(self):
        return self.width // 2

    def run(self, given):
        return helper() + self.half + len(self.name)

    def hand_on(self):
        return helper(self)

    def parent(self):
        return super().run()
'''


def members(source: str) -> dict[str, set[tuple[str, str, str]]]:
    """Return what the members of the class refer to."""
    (found,) = read(source.encode()).by_name["Step"]
    return {names[0]: {tuple(ref) for ref in piece.references} for names, piece in found.members}


def test_a_method_refers_to_members_of_its_object() -> None:
    found = members(CLASS)
    assert found["run"] == {("use", "", "helper"), ("self", "", "half"), ("self", "", "name")}
    assert found["half"] == {("self", "", "width")}


@pytest.mark.parametrize("name", ["hand_on", "parent"])
def test_a_method_that_hands_on_its_object_refers_to_all_of_it(name: str) -> None:
    assert ("self", "", "") in members(CLASS)[name]


def test_a_field_counts_with_its_default_and_its_type() -> None:
    def field_text(source: str) -> str:
        (found,) = read(source.encode()).by_name["Step"]
        return next(piece.digest for names, piece in found.members if names == ("width",))

    for new in ("width: float = field(default=8)", "width: int = field(default=9)"):
        assert field_text(CLASS.replace("width: int = field(default=8)", new)) != field_text(CLASS)


def test_what_a_module_does_when_it_is_imported_is_an_effect() -> None:
    def effects(source: str) -> Module:
        return read(source.encode())

    plain = "import os\n\n\nLIMIT = 1\n"
    assert effects(plain).effects is None
    assert effects(f'{plain}os.environ["A"] = "1"\n').effects is None  # it changes `os.environ`
    assert effects(f'{plain}os.environ.setdefault("A", "1")\n').effects is not None
    guarded = effects(f'{plain}if __name__ == "__main__":\n    print(LIMIT)\n')
    assert guarded.effects is None
    assert guarded.main is not None


EVERYTHING = """
from __future__ import annotations
import os.path as p, sys
from typing import NamedTuple

try:
    import fast
except ImportError:
    fast = None

A, *B = 1, -2.5, 3j, 0x10, b"\\x00\\xff", "\u00e4\u2192", ..., None, not True
A += (B @ B) // 2 ** -1 | A & ~A ^ A << 1 >> 1
C: dict[str, int] = {"a": 1, **{"b": 2}, "c": {1, 2}, "d": [x for x in B if x for _ in x]}
del B[1:2, ::3], C["a"].b


@p.cache(key=lambda a, /, b=1, *c, d, e=2, **f: (a, b))
async def run(first, /, second: int = 1, *rest: str, only, many=(), **named) -> None:
    global A
    async with first as one, second.open(*rest, **named):
        async for item in one:
            yield await item
    for key, (value, _) in named.items():
        if 0 < key <= value != 3 is not None and key not in many or value in many:
            continue
        elif (found := key) is None:
            break
    else:
        while True:
            pass
    try:
        raise ValueError(f"{first!r:>{second}}") from None
    except* (OSError, KeyError) as group:
        print(f"{first}{second:.3f} {{}} {first=}" "tail" f"{rest[0]['a']}", end="")
    else:
        assert first, "message"
    finally:
        return


class Node(NamedTuple, metaclass=type):
    \"\"\"Docstring.\"\"\"

    left: int = 0
    right: list[Node]

    def visit(self, kind):
        def inner():
            nonlocal kind
            kind = yield from self.right
        match kind:
            case {"a": 1, **rest} | [1, "x", *_]:
                return {k: v for k, v in rest.items()}
            case Node(left=0) as node if node:
                return (x async for x in node)
            case -1 | None | sys.maxsize | "s":
                return (yield)
            case _:
                return super().visit, __class__, [*kind], kind if kind else {i for i in kind}
"""


def test_the_digest_is_the_same_under_every_python() -> None:
    """Taken under Python 3.11, and equal under 3.12 and 3.13; another one must give it too."""
    text = repr(read(EVERYTHING.encode()))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN
