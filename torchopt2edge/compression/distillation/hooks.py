"""Read features inside a net, by the names of its modules; the net itself is not changed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchopt2edge.errors import ConfigError


class Features:
    """What named modules output in the last forward; `close` takes the hooks off again."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}
        self.handles: list[RemovableHandle] = []
        self.net: nn.Module | None = None

    def watch(self, net: nn.Module, names: Iterable[str], whose: str) -> None:
        """Hook the modules of ``net``, once; another net takes the place of the one before.

        Raises:
            ConfigError: it has no such module; names those that sound like it.
        """
        if self.net is net:
            return
        self.close()
        modules = dict(net.named_modules())
        for name in dict.fromkeys(names):
            if name not in modules:
                near = difflib.get_close_matches(name, modules, 3) or list(modules)[1:4]
                raise ConfigError(
                    f"the {whose} has no module called {name!r}",
                    artifact=type(net).__name__,
                    hint=f"such as {', '.join(near)}",
                )
            self.handles.append(modules[name].register_forward_hook(Hook(_Keep(self.seen, name))))
        self.net = net

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.seen.clear()
        self.net = None


class Hook:
    """A forward hook that stays with the net it was put on: copies of the net do nothing there."""

    def __init__(self, call: Callable[[nn.Module, Any, Any], None]) -> None:
        self.call = call

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.call(module, inputs, output)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook(_nothing)


def _nothing(module: nn.Module, inputs: Any, output: Any) -> None:
    """Do nothing, in a copy."""


class _Keep:
    """Notes the output of a module."""

    def __init__(self, seen: dict[str, Tensor], name: str) -> None:
        self.seen, self.name = seen, name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"the module {self.name!r} outputs {type(output).__name__}, not one tensor",
                hint="name a module inside it",
            )
        self.seen[self.name] = output
