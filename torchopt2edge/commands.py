"""The commands that a config drives: what each does, the groups it takes, and values that fit."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.types import SCHEMES

CONF = "torchopt2edge.conf"
_PLAIN: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
_WORDS = {"int": "a whole number", "float": "a number", "str": "a word", "bool": "true or false"}


@dataclass(frozen=True)
class Command:
    """A command as its help shows it."""

    what: str
    groups: tuple[str, ...]
    examples: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def more(self) -> str:
        """Examples, and the options of each group, as they lie in the package."""
        lines = ["examples:", *(f"  torchopt2edge {one}" for one in self.examples), ""]
        if self.groups:
            lines.append("groups (GROUP=OPTION):")
        return "\n".join([*lines, *map(_line, self.groups)])

    def check_groups(self, config: Mapping[str, Any]) -> None:
        """Refuse a config in which a group that the command cannot do without is empty.

        Raises:
            ConfigError: names the group and its options.
        """
        for group in self.groups:
            if group not in self.optional and not config.get(group):
                raise ConfigError(
                    f"nothing is chosen for {group!r}",
                    mend=f"{group}=OPTION, of {', '.join(options(group))}",
                )


def _line(group: str) -> str:
    width = max(shutil.get_terminal_size().columns - 2, 20)  # what argparse keeps to
    return textwrap.fill(
        f"{group}: {', '.join(options(group))}",
        width,
        initial_indent="  ",
        subsequent_indent="    ",
    )


def options(group: str) -> list[str]:
    """Name the options of a group that the package has; none for a group that is not there."""
    folder = resources.files(CONF) / group
    if not folder.is_dir():
        return []
    return sorted(one.name.removesuffix(".yaml") for one in folder.iterdir())


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a line that asks for the nearest of the known words, "" when none is near."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f"\nDid you mean {found[0]!r}?" if found else ""


def paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Walk the dotted keys of a config, and the groups that choose its parts."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from paths(value, f"{prefix}{key}.")


def check_schemes(words: Sequence[str]) -> Sequence[str]:
    """Return the names of schemes.

    Raises:
        ConfigError: one of them is none; names those there are.
    """
    for word in words:
        if word not in SCHEMES:
            raise ConfigError(
                f"there is no scheme {word!r}", mend=f"schemes=[…] of {', '.join(SCHEMES)}"
            )
    return words


def quoted(value: str) -> str:
    """Return a value, or each of a list, in the quotes that Hydra wants around odd signs."""
    if value.startswith("["):
        return f"[{','.join(map(quoted, value.strip('[]').split(',')))}]"
    return f'"{value}"'


def unwritable(folder: object, key: str, error: OSError) -> ConfigError:
    """Return the error of a run's folder that cannot be written; ``key`` chooses another."""
    return ConfigError(
        f"the run's folder cannot be written: {error.strerror}",
        artifact=folder,
        mend=f"{key}=FOLDER, where you can write",
    )


def cause(error: BaseException) -> str:
    """Return the first line of the innermost cause: Hydra wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}"


def listed(value: Any) -> list[Any]:
    """Return a list; a lone value where a list belongs (``schemes=int8``) is a list of one."""
    return [value] if isinstance(value, str | int | float) else list(value)


def check_values(value: Any, name: str) -> None:
    """Hold the plain fields of what a config describes against their annotations, all the way in.

    A word where a number belongs would otherwise be found when it is used, which may be after
    the training of a net.

    Raises:
        ConfigError: names the key and the types that it takes.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_values(item, f"{name}.{key}" if name else str(key))
    for key, annotation, item in _annotated(value):
        full = f"{name}.{key}" if name else key
        _check(item, annotation, full)
        check_values(item, full)


def _annotated(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Walk the fields of a dataclass, or the keywords of a partial: name, annotation, value."""
    if is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield one.name, one.type, getattr(value, one.name)
    elif isinstance(value, functools.partial):
        known = inspect.signature(value.func).parameters
        for key, item in value.keywords.items():
            yield key, known[key].annotation if key in known else "", item


def _check(value: Any, annotation: Any, name: str) -> None:
    text = annotation if isinstance(annotation, str) else _text(annotation)
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:  # no annotation, or one that only its own module can read
        return
    if not _fits(value, node):
        shown = "null" if value is None else repr(value)
        raise ConfigError(f"{name} is {shown}", mend=f"{name} takes {_said(node)}")


def _text(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _fits(value: Any, node: ast.expr) -> bool:
    """Whether a value is of an annotation's type; what is not plain fits: its user judges it."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name) if name in _PLAIN:
            # True is an int to Python, and no number of epochs.
            return isinstance(value, _PLAIN[name]) and (
                name == "bool" or not isinstance(value, bool)
            )
        case ast.Subscript(value=ast.Name(id="tuple" | "list" | "Sequence"), slice=items):
            if not isinstance(value, list | tuple):
                return False
            each = _each(items, len(value))
            return len(each) == len(value) and all(map(_fits, value, each))
    return True


def _each(items: ast.expr, count: int) -> list[ast.expr]:
    """Return the annotation of each of ``count`` items."""
    if not isinstance(items, ast.Tuple):
        return [items] * count
    if isinstance(last := items.elts[-1], ast.Constant) and last.value is ...:
        return items.elts[:1] * count
    return items.elts


def _said(node: ast.expr) -> str:
    """Return an annotation in plain words."""
    match node:
        case ast.BinOp(left=left, right=right):
            return f"{_said(left)}, or {_said(right)}"
        case ast.Constant(value=None):
            return "null"
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.Subscript(slice=ast.Tuple(elts=[first, *_])) | ast.Subscript(slice=first):
            return f"a list of which each is {_said(first)}"
    return ast.unparse(node)


COMMANDS = {
    "optimize": Command(
        "the whole road: train, distil, prune, export, quantize, measure, choose",
        ("experiment", "data", "task", "stage", "backend", "device", "protocol"),
        (
            "optimize",
            "optimize prune.dry_run=true",
            "optimize protocol=standard device.threads=2",
            "optimize -m stage.pruned.macs=0.3,0.5,0.7",
        ),
        optional=("experiment",),
    ),
    "compare": Command(
        "lower, check, score and time a trained model",
        ("model", "data", "task", "backend", "device", "protocol"),
        (
            "compare model.path=net.onnx data=image_folder data.root=photos",
            "compare model._target_=mypkg.net checkpoint=net.pth data=digits",
        ),
        optional=("data",),
    ),
    "quantize": Command(
        "make a trained model's files for every runtime and check them; time none",
        ("model", "data", "task", "backend", "device"),
        (
            "quantize model.path=net.onnx data=image_folder data.root=photos",
            "quantize model=mobilenet_v2 data=digits quantize.sensitivity=true",
        ),
        optional=("data",),
    ),
    "bench": Command(
        "time files that exist, in turns",
        ("device", "protocol"),
        ("bench 'artifacts=[a.onnx,b.tflite]' protocol=standard",),
    ),
    "report": Command(
        "render a finished run again, or hold a second one against it",
        (),
        ("report run=outputs/digits-…", "report run=before run=after report.max_regression=5%"),
    ),
}
