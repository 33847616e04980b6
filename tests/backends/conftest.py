"""Two networks lowered by every backend that a yaml names, and by the PyTorch baseline, once."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests import hub
from tests.conftest import users_cache
from tests.hub import Made
from torchopt2edge import converter
from torchopt2edge.backends.torch_cpu import TorchCpu
from torchopt2edge.interfaces import Backend, Sources, TimedSession
from torchopt2edge.store import Store
from torchopt2edge.types import SCHEMES, Facts, Signature

CONF = Path(__file__).parents[2] / "conf" / "backend"
Arrays = dict[str, np.ndarray]


def from_yaml(path: Path) -> Backend:
    """Build the backend that a yaml names, with its own defaults for what a config resolves."""
    node = dict(yaml.safe_load(path.read_text())[path.stem])
    home, _, name = node.pop("_target_").rpartition(".")
    plain = {key: value for key, value in node.items() if not str(value).startswith("${")}
    made: Backend = getattr(importlib.import_module(home), name)(**plain)
    return made


BACKENDS: dict[str, Backend] = {
    **{path.stem: from_yaml(path) for path in sorted(CONF.glob("*.yaml"))},
    "torch": TorchCpu(),
}
CASES = [(name, scheme) for name, backend in BACKENDS.items() for scheme in backend.schemes]
RUNTIMES = [name for name, backend in BACKENDS.items() if "int8" in backend.schemes]
NETS = ("tiny", "two")


@dataclass(frozen=True)
class Lowered:
    """One file, and how to open it."""

    backend: Backend
    made: Made
    file: Path
    facts: Facts
    signature: Signature

    def open(self, threads: int = 1) -> TimedSession:
        """Open the file."""
        return self.backend.open(self.file, self.signature, threads)

    def inputs(self, count: int) -> Arrays:
        """Return samples that calibrated the file."""
        return {name: array[:count] for name, array in self.made.inputs.items()}

    def reference(self, count: int) -> Arrays:
        """Return what the network itself computes in PyTorch."""
        import torch

        given = (torch.from_numpy(array) for array in self.inputs(count).values())
        with torch.no_grad():
            found = self.made.net.eval()(*given)
        outputs = found if isinstance(found, dict) else {"output": found}
        return {name: value.numpy() for name, value in outputs.items()}


Lower = Callable[[str, str, str], Lowered]


@pytest.fixture(scope="session")
def two(hub_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return the network with two inputs and two outputs on the hub."""
    shapes = {"image": (3, 16, 16), "meta": (6,)}
    return hub.make(hub.TwoByTwo, shapes, hub_store, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="session")
def nets(tiny: Made, two: Made) -> dict[str, Made]:
    """Return both networks by name."""
    return {"tiny": tiny, "two": two}


@pytest.fixture(scope="session")
def sources(
    nets: dict[str, Made], hub_store: Store, sealed: converter.Environment
) -> Callable[[str, str], Sources]:
    """Return what a backend lowers a network from; its base is made once."""

    def find(net: str, backend: str) -> Sources:
        made = nets[net]
        with users_cache():
            base = BACKENDS[backend].base(made.graph, hub_store)
        return Sources(made.graph, base, made.ranges, made.samples.path)

    return find


@pytest.fixture(scope="session")
def lowered(
    nets: dict[str, Made],
    sources: Callable[[str, str], Sources],
    tmp_path_factory: pytest.TempPathFactory,
) -> Lower:
    """Lower a network by backend and scheme, each once."""
    done: dict[tuple[str, str, str], Lowered] = {}

    def lower(net: str, backend: str, scheme: str) -> Lowered:
        key = (net, backend, scheme)
        if key not in done:
            out = tmp_path_factory.mktemp("-".join(key))
            facts = BACKENDS[backend].lower(sources(net, backend), SCHEMES[scheme], out)
            text = (out / "signature.json").read_text()
            signature = Signature.from_json(yaml.safe_load(text))
            file = out / facts["file"]
            done[key] = Lowered(BACKENDS[backend], nets[net], file, facts, signature)
        return done[key]

    return lower
