"""Find the state dict in what a training left behind: by the keys of the net that it is for.

Frameworks wrap it (``{"state_dict": …, "epoch": …}``, ``{"net": …, "acc": …}``) and put a prefix
before every key (``module.``, ``_orig_mod.``, the name of an attribute of a LightningModule, or
several of them). None of these names has to be known: the prefix is what stands before the keys of
the net. Tensors beside them (those of a loss, a counter) belong to the training and are left out.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchopt2edge.errors import ModelError

_DEPTH = 3
# Of several state dicts that fit, one whose name says so is the averaged one.
_AVERAGED = ("ema", "averaged", "swa", "shadow")
_KNOWN = ("state_dict", "model_state_dict", "model")
State = dict[str, Tensor]


def read_file(path: Path) -> Any:
    """Unpickle a checkpoint: tensors and plain values; of anything else an empty stand-in.

    Hyperparameters of a training may be objects of any class. None of their code is run, and
    nothing of them is used.

    Raises:
        ModelError: the file is missing or damaged, or asks for code to be run.
    """
    if not path.is_file():
        raise ModelError("a checkpoint is missing", artifact=path, hint="check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(path)):
            warnings.simplefilter("ignore")  # of a sparse tensor, which is refused anyway
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _not_plain(path) from error
    except _UNREADABLE as error:
        raise ModelError(
            "a checkpoint is damaged", artifact=path, hint="download or save it again"
        ) from error
    if isinstance(loaded, _StandIn):
        raise _not_plain(path)
    return loaded


def _not_plain(path: Path) -> ModelError:
    return ModelError(
        "a checkpoint is damaged or holds more than tensors, which would run its code",
        artifact=path,
        hint="save it again with torch.save(model.state_dict(), path)",
    )


_UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _StandIn:
    """Stands for an object of a class that a checkpoint names; holds nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Take anything."""

    def __setstate__(self, state: object) -> None:
        """Drop it."""


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return an empty class for every class that the file names and torch does not allow."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (*_UNREADABLE, pickle.UnpicklingError):  # the load itself says what is wrong
        return []
    return [(type("StandIn", (_StandIn,), {}), name) for name in named]


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            "a checkpoint is damaged", artifact=path, hint="download or save it again"
        ) from error


def state_dicts(loaded: Any) -> dict[str, State]:
    """Return every mapping of names to tensors in a loaded checkpoint, by where it lies.

    Entries that hold no tensor (a counter, a version) are left out.
    """
    return dict(_walk(loaded, "", 0))


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, State]]:
    if not isinstance(value, Mapping):
        return
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if tensors:
        yield path, tensors
    if depth < _DEPTH:
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}" if path else str(key), depth + 1)


def fitting(own: Mapping[str, Tensor], loaded: Any, key: str | None = None) -> tuple[State, str]:
    """Return the state dict for a net, and where in the checkpoint it lies.

    Of several that fit the plain one is taken, unless ``key`` names another: averaged weights
    (EMA) are there besides, and which were taken is said in the log.

    Args:
        own: the net's own state dict.
        loaded: what `read_file` returned.
        key: where to look, such as ``model_ema``; everywhere by default.

    Returns:
        The tensors under the net's names; as they lie where none fits, for an error that says what
        differs.

    Raises:
        ModelError: there are no tensors (there).
    """
    found = state_dicts(loaded)
    if key is not None:
        found = {at: state for at, state in found.items() if at == key or at.startswith(f"{key}.")}
    if not found:
        raise ModelError(
            f"there is no state dict under {key!r}" if key else "a checkpoint is not a state dict",
            hint=_there(loaded) or "save it with torch.save(model.state_dict(), path)",
        )
    fits = {at: state for at, each in found.items() if (state := _stripped(each, own)) is not None}
    if fits:
        at = min(fits, key=_preference)
        _say(at, fits)
        return fits[at], at
    at = min(found, key=lambda name: (-_shared(found[name], own), _preference(name)))
    return found[at], at


def _there(loaded: Any) -> str:
    names = sorted(name for name in state_dicts(loaded) if name)
    return f"there are {', '.join(names)}" if names else ""


def _preference(at: str) -> tuple[bool, bool, int, str]:
    averaged = any(word in at.lower() for word in _AVERAGED)
    return averaged, at not in ("", *_KNOWN), at.count("."), at


def _say(at: str, fits: Mapping[str, State]) -> None:
    others = [other for other in fits if other != at]
    if others:
        logging.getLogger("torchopt2edge").info(
            "the checkpoint holds weights for this net under %s and %s; taken: %s",
            ", ".join(repr(other) for other in others),
            repr(at),
            repr(at),
        )


def _stripped(state: State, own: Mapping[str, Tensor]) -> State | None:
    """Return the tensors under the net's own names, None where no prefix makes them fit."""
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    if not needed:
        return None
    longest = max(needed, key=len)
    prefixes = [key.removesuffix(longest) for key in state if key.endswith(longest)]
    for prefix in sorted(prefixes, key=len):
        if (not prefix or prefix.endswith(".")) and all(prefix + name in state for name in needed):
            inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            return inside
    return None


def _shared(state: State, own: Mapping[str, Tensor]) -> int:
    """Count the keys that end like one of the net's own."""
    endings = {name.rpartition(".")[2] for name in own}
    names = set(own)
    return sum((key in names) * 2 + (key.rpartition(".")[2] in endings) for key in state)
