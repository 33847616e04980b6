"""The commands that a config drives: what each does, and the groups of options that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

CONF = "torchopt2edge.conf"


@dataclass(frozen=True)
class Command:
    """A command as its help shows it."""

    what: str
    groups: tuple[str, ...]
    examples: tuple[str, ...]

    @property
    def more(self) -> str:
        """Examples, and the options of each group, as they lie in the package."""
        lines = ["examples:", *(f"  torchopt2edge {one}" for one in self.examples), ""]
        if self.groups:
            lines.append("groups (GROUP=OPTION):")
        return "\n".join([*lines, *(f"  {one}: {', '.join(_options(one))}" for one in self.groups)])


def _options(group: str) -> list[str]:
    folder = resources.files(CONF) / group
    return sorted(one.name.removesuffix(".yaml") for one in folder.iterdir())


COMMANDS = {
    "optimize": Command(
        "the whole road: train, distill, prune, export, quantize, measure, choose",
        ("experiment", "data", "task", "stage", "backend", "device", "protocol"),
        (
            "optimize",
            "optimize prune.dry_run=true",
            "optimize protocol=standard device.threads=2",
            "optimize -m stage.pruned.macs=0.3,0.5,0.7",
        ),
    ),
    "compare": Command(
        "lower, check, score and time a trained model",
        ("model", "data", "task", "backend", "device", "protocol"),
        (
            "compare model.path=net.onnx data=image_folder data.root=photos",
            "compare model._target_=mypkg.net checkpoint=net.pth data=digits",
        ),
    ),
    "quantize": Command(
        "make a trained model's files for every runtime and check them; time none",
        ("model", "data", "task", "backend", "device"),
        (
            "quantize model.path=net.onnx data=image_folder data.root=photos",
            "quantize model=mobilenet_v2 data=digits quantize.sensitivity=true",
        ),
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
