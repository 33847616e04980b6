"""Write a net into a model artifact and build it again: plain data only, never a pickled module.

The folder holds ``weights.pt`` (a state dict), ``model.json`` (``{"target", "kwargs"}``: what
builds the net; ``code``: the digest of that) and, for a pruned net, ``plan.json`` (what to cut
after building). With the code in it an edited ``forward`` is another artifact, whatever its
weights: what is made of the net is then made again.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.cut_plan import Plan
from torchopt2edge.models.state_dict import fitting, read_file, state_dicts
from torchopt2edge.store import code_of

_PLAIN = "make the model a module-level function, with plain numbers, strings, lists and dicts"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_STARTS = (
    "weights",
    "pretrained",
    "new_head",
)  # arguments of our factories that weights.pt replaces


def save_model(
    model: nn.Module, factory: Callable[..., nn.Module], out: Path, plan: Plan | None = None
) -> None:
    """Write ``model``, which ``factory()`` and then ``plan`` build, into the folder ``out``.

    Raises:
        ModelError: the factory is not an importable function with plain keyword arguments.
    """
    record = {**describe(factory), "code": code_of(_function(factory))}
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.json").write_text(json.dumps(record, indent=1, sort_keys=True))
    if plan is not None:
        (out / "plan.json").write_text(json.dumps(plan.to_json()))
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    torch.save(state, out / "weights.pt")


def describe(factory: Callable[..., nn.Module]) -> dict[str, Any]:
    """Return ``{"target", "kwargs"}`` of a function or a ``functools.partial`` over one.

    Raises:
        ModelError: it cannot be imported by its name, or an argument is not plain data.
    """
    kwargs: dict[str, Any] = {}
    while isinstance(factory, functools.partial):
        if factory.args:
            raise ModelError("a model's factory has positional arguments", hint="name them")
        kwargs = {**factory.keywords, **kwargs}
        factory = factory.func
    target = f"{factory.__module__}.{getattr(factory, '__qualname__', type(factory).__name__)}"
    kwargs = _plain(kwargs, target)
    if _resolve(target) is not factory:
        raise ModelError("a model's factory is not what its name imports", artifact=target)
    return {"target": target, "kwargs": kwargs}


def _function(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def _plain(kwargs: Mapping[str, Any], target: str) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(_listed(kwargs), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(
            "a model's arguments are not plain data", artifact=target, hint=_PLAIN
        ) from error
    return plain


def _listed(value: Any) -> Any:
    """Turn a config library's mappings and sequences into dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _listed(item) for key, item in value.items()}
    if hasattr(value, "__iter__") and not isinstance(value, str | Tensor):
        return [_listed(item) for item in value]
    return value


def _resolve(target: str) -> Callable[..., nn.Module]:
    module, _, name = target.rpartition(".")
    if module == "__main__" or "<" in target:
        raise ModelError(
            "a model's factory cannot be imported by another process", artifact=target, hint=_PLAIN
        )
    try:
        found: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            "a model's factory cannot be imported", artifact=target, hint=_PLAIN
        ) from error
    return found


def load_factory(folder: Path) -> functools.partial[nn.Module]:
    """Return what builds the net of a model artifact, before pruning and weights.

    What our own factories would load first is left out: it would only be replaced.

    Raises:
        ModelError: ``model.json`` is missing or damaged, or its target cannot be imported.
    """
    try:
        record = json.loads((folder / "model.json").read_text())
        target, kwargs = record["target"], record["kwargs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("model.json cannot be read", artifact=folder) from error
    if target.startswith("torchopt2edge."):
        kwargs = {name: value for name, value in kwargs.items() if name not in _STARTS}
    return functools.partial(_resolve(target), **kwargs)


def load_plan(folder: Path) -> Plan | None:
    """Return the cuts of a model artifact, None when it was never pruned.

    Raises:
        ModelError: ``plan.json`` is damaged.
    """
    path = folder / "plan.json"
    if not path.exists():
        return None
    try:
        return Plan.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("plan.json cannot be read", artifact=path) from error


def load_model(folder: Path) -> nn.Module:
    """Build the net of a model artifact, in eval mode on the CPU.

    Raises:
        ModelError: a file is missing or damaged, or does not fit the others.
    """
    model = load_factory(folder)()
    plan = load_plan(folder)
    if plan is not None:
        plan.apply(model)
    load_checkpoint(model, folder / "weights.pt")
    return model.eval()


def load_checkpoint(model: nn.Module, path: Path, key: str | None = None) -> None:
    """Load a state dict into ``model``: every key and every shape must fit.

    What frameworks put around it is found by the net's own keys (`state_dict.fitting`). Only
    tensors and plain values are unpickled, never code; a ``.safetensors`` file holds nothing else.

    Args:
        model: the net.
        path: the file.
        key: which of several state dicts in the file is meant, such as ``model_ema``.

    Raises:
        ModelError: missing, damaged, without tensors, or made for another net.
    """
    loaded = read_file(path)
    try:
        state, _ = fitting(model.state_dict(), loaded, key)
    except ModelError as error:
        raise ModelError(error.what, artifact=path, hint=error.hint) from error
    load_state(model, state, path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Load the tensors of ``source`` (a file, or a name for the error) into ``model``.

    Raises:
        ModelError: a key or a shape does not fit; names the first few.
    """
    own = model.state_dict()
    # A counter that only matters to training without momentum; files from before it lack it.
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    state = {**counters, **state}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shared = sorted(own.keys() & state.keys())
    wrong = [k for k in shared if own[k].shape != state[k].shape]
    other = [k for k in shared if not _converts(state[k], own[k])]
    if other:
        raise ModelError(
            f"a checkpoint holds {other[0]} as {state[other[0]].dtype}, the net "
            f"{own[other[0]].dtype}",
            artifact=source,
            hint="save the float weights of the net, on a real device and not sparse",
        )
    if missing or extra or wrong:
        raise ModelError(
            "a checkpoint does not fit the model: "
            + _differences(missing, extra, wrong, own, state),
            artifact=source,
            hint="build the net that the checkpoint was made with (depth, width, num_classes)",
        )
    model.load_state_dict(state)


def _converts(given: Tensor, own: Tensor) -> bool:
    """Whether the numbers of one tensor can be those of the other: float to float of any width."""
    plain = given.layout == torch.strided and not (given.is_meta or given.is_quantized)
    alike = given.is_floating_point() == own.is_floating_point()
    return plain and alike and given.is_complex() == own.is_complex()


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, wrappers and their prefixes taken off.

    Raises:
        ModelError: missing, damaged, or holding no tensors.
    """
    found = state_dicts(read_file(path))
    if not found:
        raise ModelError(
            "a checkpoint is not a state dict",
            artifact=path,
            hint="save it with torch.save(model.state_dict(), path)",
        )
    state = found.get("") or next((found[name] for name in _WRAPPERS if name in found), None)
    state = state or next(iter(found.values()))
    for prefix in ("module.", "_orig_mod.", "module."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _differences(
    missing: list[str],
    extra: list[str],
    wrong: list[str],
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
) -> str:
    """Name the first few differences, each missing key with the nearest one that is there."""
    parts = []
    for key in missing[:3]:
        near = difflib.get_close_matches(key, extra, n=1)
        parts.append(f"{key} is missing" + (f" (nearest: {near[0]})" if near else ""))
    parts += [f"{key} is not in the model" for key in extra[: 3 if not missing else 1]]
    for key in wrong[:3]:
        parts.append(f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}")
    rest = len(missing) + len(extra) + len(wrong) - len(parts)
    return "; ".join(parts) + (f"; and {rest} more" if rest > 0 else "")
