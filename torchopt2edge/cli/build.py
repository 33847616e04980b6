"""What a composed config describes, as the api takes it; ``make`` builds its parts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.cli.config_check import check_schemes, check_values, listed
from torchopt2edge.cli.console import progress
from torchopt2edge.errors import ConfigError

if TYPE_CHECKING:
    from torchopt2edge.workflow.settings import SettingsArgs

Make = Callable[[Any, str], Any]
_LISTS = ("threads", "cores", "affinity")  # of bench


def settings(config: Any, out: Path, make: Make) -> SettingsArgs:
    """Return what `torchopt2edge.api` takes beside a model; ``out`` is the run's folder.

    Raises:
        ConfigError: a part that cannot be built, or a value of the wrong type.
    """
    from torchopt2edge.devices.address import named
    from torchopt2edge.workflow.settings import Settings

    described = partial(_described, make)
    device = make(config.device, "device")
    made: SettingsArgs = {
        "device": device,
        "devices": [named(word, device) for word in listed(config.get("devices") or ())],
        "protocol": make(config.protocol, "protocol"),
        "out": out,
        "constraints": described("types.Constraints", config.constraints, "constraints"),
        "progress": progress(),
        "title": str(config.name),
        "environment": {"command": shlex.join(["torchopt2edge", *sys.argv[1:]])},
    }
    if "bench" in config:
        made["bench"] = _bench_of(config.bench, described)
    if "task" in config:
        made["task"] = make(config.task, "task")
    if "backend" in config:
        made["backends"] = tuple(make(config.backend, "backend").values())
        made["schemes"] = tuple(check_schemes(listed(config.schemes)))
        made["baseline"] = config.baseline
        made["calibration_samples"] = config.calibration_samples
        made["evaluate_samples"] = config.evaluate_samples
        how = {**config.quantize, "exclude": tuple(listed(config.quantize.exclude))}
        made["quantize"] = described("quantize.options.Quantize", how, "quantize")
    check_values(Settings.of(made), "")
    return made


def _described(make: Make, target: str, node: Mapping[str, Any], name: str) -> Any:
    """Build an object of ours whose part of the config does not name it."""
    return make({"_target_": f"torchopt2edge.{target}", **node}, name)


def model(config: Any, images: Any, make: Make) -> tuple[Any, Any]:
    """Return the path of an .onnx, or a module with its checkpoint and an example input.

    ``images`` [N, C, H, W] are that input, or None: ones of noise, of the shape that is given.

    Raises:
        ConfigError: there is no model.
        ModelError: its checkpoint does not fit.
    """
    node = {key: value for key, value in config.model.items() if value is not None}
    path = node.pop("path", None)
    if path is not None:
        return str(path), None
    if "_target_" not in node:
        raise ConfigError(
            "there is no model",
            hint="model.path=net.onnx, or model._target_=pkg.fn, or model=mobilenet_v2",
        )
    import torch

    from torchopt2edge.models.artifact import load_checkpoint

    net = make({**node, "_partial_": False}, "model")
    if config.checkpoint is not None:
        load_checkpoint(net, Path(config.checkpoint))
    if images is None:
        images = torch.randn(4, *config.input_shape, generator=torch.Generator().manual_seed(0))
    return net, (images,)


def _bench_of(node: Any, described: Callable[..., Any]) -> Any:
    given = {key: tuple(listed(node[key])) for key in _LISTS if node[key] is not None}
    if "affinity" in given:
        given["affinity"] = tuple(tuple(listed(one)) for one in given["affinity"])
    return described("bench.thread_settings.Bench", {**node, **given}, "bench")
