"""What a live module's digest sees."""

from __future__ import annotations

import torch
from torch import nn

from torchopt2edge.models.identity import module_digest

X = (torch.zeros(1, 4),)


def test_a_class_inside_a_function_has_a_digest_that_sees_its_weights() -> None:
    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

    net = Local()
    before = module_digest(net, X)
    assert module_digest(net, X) == before
    net.head.weight.data += 1
    assert module_digest(net, X) != before


def test_code_that_lies_in_no_file_is_never_taken_for_the_same() -> None:
    typed: dict[str, type[nn.Module]] = {}
    exec(
        "from torch import nn\nclass Typed(nn.Identity): pass",
        {"__name__": "typed_at_a_prompt"},
        typed,
    )
    net = typed["Typed"]()
    assert module_digest(net, X) != module_digest(net, X)
