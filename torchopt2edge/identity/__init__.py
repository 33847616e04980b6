"""What makes a result: the identity of functions, classes and their settings, for keys.

`Identity` reduces a configuration to plain data. Code in it counts by what it computes: the syntax
tree of a definition (`syntax`) and of all that it refers to (`closure`), but for what cannot
influence a result (`excluded`). No name of a module, no line number and no path is in it, and it
is the same under every version of Python.
"""

from __future__ import annotations

from torchopt2edge.identity.cache import CodeCache
from torchopt2edge.identity.closure import Code
from torchopt2edge.identity.files import Files
from torchopt2edge.identity.values import Identity, code_of

__all__ = ["Code", "CodeCache", "Files", "Identity", "code_of"]
