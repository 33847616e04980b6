"""What a function or a class computes: its own definition and all that it refers to.

The rules, cited in the code as I1 to I6:

I1. The unit is a definition at the top of a module, and in a class whose method is asked for, a
    member. References are followed through our modules, through imports inside functions too.
I2. A class that is referred to counts whole, and so does one whose object a method hands on.
I3. What cannot be resolved counts as the whole module: a module that is passed around, a name
    that only running it could give.
I4. `excluded` lists what is not followed.
I5. A name in the annotation of an argument or of a field counts as the class whose methods are
    then called, unless it is an interface.
I6. A user's code counts by whole modules: that of the definition, those beside it in its package,
    and all of theirs that these import. Of an installed package the version counts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torchopt2edge.identity.excluded import DEFINITIONS, PACKAGE, is_excluded
from torchopt2edge.identity.module import Definition, Module
from torchopt2edge.identity.reader import path_of, read_module
from torchopt2edge.identity.syntax import OWN, TYPE, USE, Piece, Reference

WHOLE, DEFINED, MEMBER = "module", "definition", "member"
_PLAIN_BASES = ("abc", "enum", "typing")
_DEEPEST = 20  # classes that inherit from each other in a circle are no Python


@dataclass(frozen=True)
class Code:
    """The identity of code: a sha256, and the installed packages that it imports.

    ``parts`` names what counts, as ``module.definition``.
    """

    digest: str
    packages: frozenset[str]
    parts: tuple[str, ...]


class Node(NamedTuple):
    """A part of the code: a whole module, a definition, or a member of the class ``holder``.

    ``owner`` is the class of the object on which the member is called, as ``module:class``.
    """

    kind: str
    module: str
    name: str = ""
    holder: str = ""
    owner: str = ""

    def __str__(self) -> str:
        return ".".join(filter(None, (self.module, self.holder, self.name)))


class Place(NamedTuple):
    """Where a name leads: a definition of a module, or a module ("" for the name)."""

    module: str
    name: str


@dataclass
class Closure:
    """Follows references, starting at the roots, in the order of their first occurrence.

    ``files`` maps a module's name to its source, None where that is not read.
    """

    files: dict[str, Path | None] = field(default_factory=dict)
    _modules: dict[str, Module | None] = field(default_factory=dict)
    _packages: set[str] = field(default_factory=set)
    _nodes: dict[Node, int] = field(default_factory=dict)
    _queue: list[Node] = field(default_factory=list)

    def of(self, roots: Iterable[Node]) -> Code:
        """Return the identity of these nodes together."""
        starts = [self._index(node) for node in roots]
        parts: list[object] = []
        for node in self._queue:  # grows meanwhile
            pieces = [*self._pieces(node)]
            children = [
                [self._index(child) for child in self._targets(node, reference)]
                for piece in pieces
                for reference in piece.references
            ]
            parts.append([[piece.digest for piece in pieces], children])
        text = json.dumps([starts, parts])
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        packages = frozenset(self._packages - sys.stdlib_module_names)
        return Code(digest, packages, tuple(map(str, self._queue)))

    def at(self, module: str, name: str) -> Iterator[Node]:
        """Yield the node of a definition, its module where there is none (I3), or a user's (I6)."""
        if module.partition(".")[0] != PACKAGE:
            yield from (Node(WHOLE, neighbour) for neighbour in self._beside(module))
        elif self._definitions(Place(module, name)):
            yield Node(DEFINED, module, name)
        else:
            yield Node(WHOLE, module)

    def member(self, owner: Place, name: str) -> Iterator[Node]:
        """Yield the member of that name of a class, or the class itself (I2).

        ``__init__`` counts with every member: it sets the attributes that the others read.
        """
        classes = [*self._inheritance(owner)]
        if not name or not all(classes):
            yield from self.at(*owner)
            return
        for member in dict.fromkeys(("__init__", name)):
            homes = (place for place in filter(None, classes) if self._has(place, member))
            for home in itertools.islice(homes, 1):
                yield Node(MEMBER, home.module, member, home.name, ":".join(owner))

    def _has(self, place: Place, member: str) -> bool:
        definitions = self._definitions(place)
        return any(member in names for cls in definitions for names, _ in cls.members)

    # Modules

    def module(self, name: str) -> Module | None:
        """Return a module of ours or of the user; None for any other."""
        if name not in self._modules:
            path = self.files.setdefault(name, None) or path_of(name)
            self.files[name] = path
            self._modules[name] = None if path is None else read_module(path)
        return self._modules[name]

    def sources(self) -> list[Path]:
        """Return the files that were read."""
        return [path for name in self._modules if (path := self.files[name]) is not None]

    def _definitions(self, place: Place) -> Sequence[Definition]:
        module = self.module(place.module)
        return () if module is None else module.by_name.get(place.name, ())

    def _beside(self, name: str) -> Iterator[str]:
        """Yield a module and those beside it in its package."""
        path = self.files.get(name)
        yield name
        if path is None or not path.with_name("__init__.py").is_file():
            return
        package = self._package(name)
        for other in sorted(path.parent.glob("*.py")):
            stem = "" if other.name == "__init__.py" else other.stem
            full = ".".join(filter(None, (package, stem)))
            self.files.setdefault(full, other)
            if full != name:
                yield full

    def _package(self, name: str) -> str:
        path = self.files.get(name)
        return name if path is not None and path.name == "__init__.py" else _parent(name)

    def _absolute(self, home: str, module: str) -> str:
        """Return the name of the module that an import in ``home`` means."""
        name = module.lstrip(".")
        level = len(module) - len(name)
        if not level:
            return module or home
        package = self._package(home)
        for _ in range(level - 1):
            package = _parent(package)
        return ".".join(filter(None, (package, name)))

    def _resolve(self, home: str, reference: Reference) -> Place | None:
        """Return where a reference leads; None outside of what is read, or where it is excluded."""
        module = self._absolute(home, reference.module)
        parts = [part for part in reference.path.split(".") if part not in ("", "*")]
        seen: set[Place] = set()
        while not is_excluded(module):
            source = self.module(module)
            if source is None:
                if reference.kind == USE:
                    self._packages.add(module.partition(".")[0])
                return None
            if parts and parts[0] in source.by_name:
                return Place(module, parts[0])
            if not parts or Place(module, parts[0]) in seen:
                return Place(module, "")
            seen.add(Place(module, parts[0]))
            head, *rest = parts
            submodule = f"{module}.{head}"
            target = source.imports.get(head)
            if target is None and self.module(submodule) is None:
                target = source.types.get(head)
            if target is not None:
                module = self._absolute(module, target.module)
                parts = [*filter(None, (target.name,)), *rest]
            elif self.module(submodule) is not None:
                module, parts = submodule, rest
            else:
                return Place(module, "")
        return None

    # Nodes

    def _index(self, node: Node) -> int:
        if node not in self._nodes:
            self._nodes[node] = len(self._nodes)
            self._queue.append(node)
        return self._nodes[node]

    def _pieces(self, node: Node) -> Iterator[Piece]:
        module = self.module(node.module)
        assert module is not None
        if node.kind == WHOLE:
            yield from module.pieces()
            yield Piece("", tuple(Reference(USE, *target) for target in module.imports.values()))
            return
        for cls in module.by_name[node.holder] if node.kind == MEMBER else ():
            yield from (piece for names, piece in cls.members if node.name in names)
        for definition in module.by_name[node.name] if node.kind == DEFINED else ():
            yield definition.piece
            for names, piece in definition.members:
                if not any(f"{node}.{name}" in DEFINITIONS for name in names):
                    yield piece
        if module.effects is not None:
            yield module.effects

    def _targets(self, node: Node, reference: Reference) -> Iterator[Node]:
        """Yield the nodes that a reference in a node means."""
        if reference.kind == OWN:
            if node.kind == MEMBER:
                yield from self.member(Place(*node.owner.split(":")), reference.path)
            return
        place = self._resolve(node.module, reference)
        if place is None:
            return
        if reference.kind == TYPE:
            yield from self._types(place)
            return
        yield from self.at(*place)
        if node.module.partition(".")[0] != PACKAGE:
            yield from self.left_out(place)

    def left_out(self, place: Place) -> Iterator[Node]:
        """Yield the members of a class that our own code does not count (I4)."""
        for entry in DEFINITIONS:
            holder, _, name = entry.rpartition(".")
            if holder == ".".join(place):
                yield Node(MEMBER, place.module, name, place.name, ":".join(place))

    def _types(self, place: Place, seen: tuple[Place, ...] = ()) -> Iterator[Node]:
        """I5; an alias stands for the classes that it names."""
        for definition in self._definitions(place):
            if definition.kind == "class" and not definition.is_interface:
                yield from self.at(*place)
            for reference in definition.piece.references if definition.kind == "value" else ():
                alias = self._resolve(place.module, reference._replace(kind=TYPE))
                if alias is not None and alias not in seen:
                    yield from self._types(alias, (*seen, place))

    def _inheritance(self, place: Place, depth: int = 0) -> Iterator[Place | None]:
        """Yield a class and those that it inherits from; None for one that is not read."""
        yield place
        for definition in self._definitions(place) if depth < _DEEPEST else ():
            for base in definition.bases:
                parent = self._resolve(place.module, base)
                if parent is not None and parent.name:
                    yield from self._inheritance(parent, depth + 1)
                elif base.module not in _PLAIN_BASES:
                    yield None


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
