"""Run the stages of a run in order, each once: what the store has is not made again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Stage
from torchopt2edge.store import Store, key_of, versions
from torchopt2edge.types import Artifact
from torchopt2edge.workflow.progress import Progress


@dataclass(frozen=True)
class Made:
    """What a stage made, whether the store had it, and the seconds it took now."""

    artifact: Artifact
    cached: bool
    seconds: float


def run_stages(stages: Mapping[str, Stage], store: Store, progress: Progress) -> dict[str, Made]:
    """Run the stages in order, each on what those before it made.

    Raises:
        ConfigError: a stage needs one that is not before it.
    """
    made: dict[str, Made] = {}
    for name, stage in stages.items():
        inputs = {role: _before(name, source, made) for role, source in stage.needs.items()}
        digests = {role: artifact.digest for role, artifact in inputs.items()}
        key = key_of(stage.__call__, digests, versions(getattr(stage, "tools", ())))
        started = time.monotonic()
        with progress.task(name):
            artifact, cached = store.make(key, stage.kind, partial(stage, inputs))
        made[name] = Made(artifact, cached, time.monotonic() - started)
    return made


def _before(name: str, source: str, made: Mapping[str, Made]) -> Artifact:
    if source not in made:
        raise ConfigError(
            f"the stage {name!r} needs a stage {source!r} before it; there is {list(made)}",
            hint=f"put {source} before {name} in stage=[…]",
        )
    return made[source].artifact
