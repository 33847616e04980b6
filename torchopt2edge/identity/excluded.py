"""What our code refers to without its results depending on it; each entry has its reason.

References to these are not followed. The list is for the package's own code alone: code of a
user, and a value that a user passes, is taken whole.
"""

from __future__ import annotations

import functools

PACKAGE = "torchopt2edge"
ERRORS = "torchopt2edge.errors"
"""The module of our exceptions: the arguments of one are the text of a message."""

MODULES = {
    ERRORS: "the text of an error reaches no artifact: a failure is never kept",
    "torchopt2edge.store": "says where artifacts lie; what one holds is the maker's work",
    "torchopt2edge.identity": "says when artifacts are made again, not what they hold",
    "torchopt2edge.workflow.progress": "shows how far a task is",
    "torchopt2edge.report": "shows what was measured",
    "torchopt2edge.training.loggers": "copies the figures of a training into a log",
}

DEFINITIONS = {
    "torchopt2edge.preprocessing.preprocess.Preprocess.__call__": (
        "signatures carry the object as plain data; our code that makes pixels of it calls "
        "`preprocess.apply`, which is followed"
    ),
    "torchopt2edge.tasks.classification.Classification.loss": (
        "scoring calls no loss; a stage that trains holds its task, whose class counts whole"
    ),
    "torchopt2edge.stages.prune.Prune.explain": "says what would be cut, and cuts nothing",
}


@functools.cache
def is_excluded(module: str) -> bool:
    """Tell whether a module, or the package that it is in, is on the list."""
    return any(module == name or module.startswith(f"{name}.") for name in MODULES)
