"""What computes the answers of a candidate: the part of a score's key that is code."""

from __future__ import annotations

import importlib
from pathlib import Path

from torchopt2edge.bench.batching import each
from torchopt2edge.bench.child_session import ChildSession
from torchopt2edge.deploy.launch import runner_of
from torchopt2edge.identity import Files
from torchopt2edge.interfaces import Device
from torchopt2edge.runner.runner import Runner
from torchopt2edge.store import versions
from torchopt2edge.types import Candidate


def runner_code(candidate: Candidate, device: Device) -> list[object]:
    """Return what computes an answer between a call here and the file there, for keys.

    The session here, the runner there and, in a runner of Python, how the backend opens the file.
    """
    batches = [each, ChildSession.joins, ChildSession.run_stacked]
    here: list[object] = [ChildSession.__call__, *batches]
    kind = runner_of(candidate, device)
    if kind == "native":
        from torchopt2edge.deploy.native_build import SOURCE, runtime

        sources = Files(tuple(SOURCE.parent.glob("*.[ch]")))
        return [*here, sources, versions([runtime(candidate.backend)[0]])]
    if kind == "web":
        from torchopt2edge.devices import web

        return [*here, Files(tuple(Path(web.__path__[0]).glob("*.mjs")))]
    module, _, name = str(candidate.facts["target"]).rpartition(".")
    backend = getattr(importlib.import_module(module), name)(**candidate.facts["options"])
    return [*here, Runner.call, backend.open]
