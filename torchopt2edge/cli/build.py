"""The arguments of `torchopt2edge.api`, from a composed config."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.cli.compose import build_part
from torchopt2edge.cli.config_check import check_values, listed, part
from torchopt2edge.cli.console import progress
from torchopt2edge.cli.parameters import inspected
from torchopt2edge.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torchopt2edge.workflow.settings import SettingsArgs


IMAGE = (3, 224, 224)
"""The shape of an image where neither data nor a setting gives one."""


def settings(config: Any, out: Path) -> SettingsArgs:
    """Return the settings that every function of the api takes.

    Args:
        config: composed and checked.
        out: the run's folder.

    Raises:
        ConfigError: a part cannot be built, or a value has the wrong type.
    """
    from torchopt2edge.devices.address import named
    from torchopt2edge.workflow.settings import Settings

    device = build_part(config.device)
    built: SettingsArgs = {
        "device": device,
        "devices": tuple(named(word, device) for word in listed(config.get("devices") or ())),
        "timing": build_part(config.timing),
        "out": out,
        "constraints": build_part(part(config, "constraints")),
        "progress": progress(),
        "title": str(config.name),
        "environment": {"command": shlex.join(["torchopt2edge", *sys.argv[1:]])},
    }
    if "bench" in config:
        built["bench"] = build_part(part(config, "bench"))
    if "shapes" in config:
        given = config.input_shape and tuple(listed(config.input_shape))
        built["shapes"] = dict(config.shapes or {}) or given or {}
    if "task" in config:
        built["task"] = build_part(config.task)
    if "backend" in config:
        built["backends"] = tuple(build_part(config.backend).values())
        built["schemes"] = tuple(listed(config.schemes))
        built["baseline"] = config.baseline
        built["calibration_samples"] = config.calibration_samples
        built["evaluate_samples"] = config.evaluate_samples
        built["quantize"] = build_part(part(config, "quantize"))
    check_values(built, inspected(Settings))
    return built


def check_inputs(config: Any) -> None:
    """Check, before the run's folder is made, that the model and the shipped stages exist.

    Raises:
        ConfigError: there is no model, or no such stage.
        ModelError: a file is missing.
    """
    if "ship" in config:
        missing = [name for name in listed(config.ship) if name not in config.stage]
        if missing:
            known = f"ship one of {', '.join(config.stage)}"
            raise ConfigError(f"there is no stage {', '.join(missing)}", hint=known)
    if "model" not in config:
        return
    path = config.model.get("path")
    if path is None and config.model.get("_target_") is None:
        raise ConfigError(
            "there is no model",
            hint="model.path=net.onnx, or model._target_=pkg.fn, or model=mobilenet_v2",
        )
    for key, file in (("model.path", path), ("checkpoint", config.checkpoint)):
        if file is not None and not Path(file).is_file():
            raise ModelError("there is no such file", artifact=file, hint=f"check {key}")


def model(config: Any, images: Any) -> tuple[Any, Any]:
    """Return a model and its example inputs.

    Args:
        config: composed and checked.
        images: float32 [N, C, H, W], or None: random ones of ``input_shape``, or of `IMAGE`.

    Returns:
        The path of an .onnx and None; or a module with its checkpoint, and a tuple of one tensor.

    Raises:
        ModelError: the checkpoint does not fit.
    """
    node = {key: value for key, value in config.model.items() if value is not None}
    path = node.pop("path", None)
    if path is not None:
        return str(path), None
    import torch

    from torchopt2edge.models.artifact import load_checkpoint

    net = build_part({**node, "_partial_": False})
    if config.checkpoint is not None:
        load_checkpoint(net, Path(config.checkpoint), config.checkpoint_key)
    if images is None:
        shape = config.input_shape or IMAGE
        images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    return net, (images,)
