"""What several rooms share: the sealed converter and one tiny network, made once per session.

Torch is imported only when a test asks for the network.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conversions import kept_conversions
from torchopt2edge import converter
from torchopt2edge.store import Store, cache_root

if TYPE_CHECKING:
    from tests.hub import Made
    from torchopt2edge.types import Artifact

_HERE = Path(__file__).parent

# What ``--quick`` leaves out: tests that ask for one of these fixtures, directly or through
# another one, and the folders and files whose tests train nets or make whole runs.
_FIXTURES = frozenset(
    (
        *("sealed", "newer", "tiny_tflite"),  # the converter
        *("device", "server", "shell", "phone", "client", "one", "start"),  # devices
        *("packages", "browser"),  # browsers
        *("digits",),  # trainings
    )
)
_WHOLE = (
    *("converter", "integrations", "stages", "training"),
    *("test_compare.py", "test_examples.py", "test_harness_suites.py", "test_optimize.py"),
    *("test_quantize.py", "test_zoo.py"),
)

# As it was before any room's fixture pointed it elsewhere: the sealed environment lives there.
_CACHE = os.environ.get("TORCHOPT2EDGE_CACHE")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick``."""
    text = "leave out what needs a converter, a device, a browser or a training, and what is slow"
    parser.addoption("--quick", action="store_true", help=text)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--quick``, do not even import what is left out as a whole."""
    left_out = config.getoption("quick") and collection_path.parent == _HERE
    return True if left_out and collection_path.name in _WHOLE else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--quick``, leave out the tests that are slow or ask for one of those fixtures."""
    if not config.getoption("quick"):
        return
    quick = [item for item in items if _is_quick(item)]
    left_out = [item for item in items if not _is_quick(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = quick


def _is_quick(item: pytest.Item) -> bool:
    marked = {mark.name for mark in item.iter_markers()}
    asked = set(getattr(item, "fixturenames", ()))
    return not marked & {"slow", "zoo"} and not asked & _FIXTURES


@contextmanager
def users_cache() -> Iterator[None]:
    """Let the converter be found where the user has it; stores are given by hand."""
    with pytest.MonkeyPatch.context() as patch:
        if _CACHE is None:
            patch.delenv("TORCHOPT2EDGE_CACHE", raising=False)
        else:
            patch.setenv("TORCHOPT2EDGE_CACHE", _CACHE)
        yield


@pytest.fixture(autouse=True, scope="session")
def conversions() -> Iterator[None]:
    """Keep the converter's results in the user's cache, for this test run's other worker too."""
    with users_cache():
        folder = cache_root() / "tests" / "conversions"
    with kept_conversions(folder):
        yield


@pytest.fixture(scope="session")
def sealed() -> converter.Environment:
    """Return the sealed converter environment, built now unless it is there: never skipped."""
    with users_cache():
        return converter.install()


@pytest.fixture(scope="session")
def hub_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of this test run's own."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def tiny(hub_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return the tiny CNN on the hub."""
    from tests import hub

    return hub.make(hub.TinyCnn, {"image": (3, 32, 32)}, hub_store, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_tflite(tiny: Made, sealed: converter.Environment, hub_store: Store) -> Artifact:
    """Return the tiny CNN as the real converter writes it, in float."""
    from torchopt2edge.backends.litert.backend import LiteRT

    with users_cache():
        return LiteRT().base(tiny.graph, hub_store)


@pytest.fixture(autouse=True)
def no_handlers_left() -> Iterator[None]:
    """Take off the log handlers that a command put on: their stream closes with its test."""
    log = logging.getLogger("torchopt2edge")
    before, level, propagate = list(log.handlers), log.level, log.propagate
    yield
    for handler in set(log.handlers) - set(before):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(level)
    log.propagate = propagate
