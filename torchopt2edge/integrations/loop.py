"""Compression around a training loop of the user's own: a few lines, no change to the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from torchopt2edge.compression.distillation.spec import Distill
from torchopt2edge.compression.pruning import explain as pruning
from torchopt2edge.compression.pruning.explain import Explanation
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.integrations.parts import example_of, parts_of
from torchopt2edge.integrations.session import Compression
from torchopt2edge.interfaces import Meter


def compress(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    prune: Prune | None = None,
    sparsify: Sparsify | None = None,
    distill: Distill | None = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    meter: Meter | None = None,
) -> Compression:
    """Prune, sparsify and distill ``model`` in place while a loop of one's own trains it.

    ::

        c = t2e.compress(model, example, prune=t2e.Prune(macs=0.5), distill=t2e.Distill(teacher))
        for x, y in loader:
            loss = c.loss(x, y, criterion)
            loss.backward(); optimizer.step(); optimizer.zero_grad()
            c.step()
        small = c.finish()

    What is due at step 0 (a one-shot pruning) happens here, before the optimizer needs to exist.
    Optimizers that step are noticed by themselves; their momentum loses the channels that the net
    loses, and their groups, hence any learning-rate schedule, stay.

    Args:
        model: the net that the optimizer trains, neither compiled nor wrapped for several devices:
            what does that later is given as ``c.loss(…, through=…)``.
        example_inputs: one input, batch first, of the shape that the net will see.
        prune: which channels go, how many and when, in optimizer steps.
        sparsify: which weights become zero; with ``prune`` not before the last cut.
        distill: who teaches, and what is copied.
        optimizer: one or several; given, none is looked for.
        meter: measures, for a budget in milliseconds
            (``torchopt2edge.workflow.latency_meter.Meter()``).

    Raises:
        ConfigError: nothing to do, a model that cannot be changed while it trains, or an example
            that it cannot run on.
        PruneError: a budget that cannot be met.
    """
    example = example_of(model, example_inputs)
    parts = parts_of(model, example, prune, sparsify, distill, meter)
    given = (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else optimizer or ()
    session = Compression(model, example, parts, given)
    session.begin()
    return session


def explain(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    prune: Prune,
    meter: Meter | None = None,
) -> Explanation:
    """Return what ``prune`` would cut of ``model``, which stays as it is; printed, it is a table.

    With a ``meter`` each layer's latency is predicted.

    Raises:
        ConfigError: the model cannot run on the example.
        PruneError: the budget cannot be met, or the net cannot be traced.
    """
    shape = tuple(example_of(model, example_inputs).shape[1:])
    return pruning.explain(model, shape, prune, meter)


def rebuild(model: nn.Module, folder: str | Path, *later: str | Path) -> nn.Module:
    """Cut a freshly built ``model`` and load its weights as `Compression.save` wrote them.

    ``later`` are the folders of compressions that went on from the one before, in their order;
    the weights are the last one's.

    Raises:
        ModelError: a file is missing or damaged, or made for another net.
    """
    from torchopt2edge.models.artifact import load_checkpoint, load_plan

    folders = [Path(one) for one in (folder, *later)]
    for out in folders:
        plan = load_plan(out)
        if plan is not None and plan.cuts:
            plan.apply(model)
    load_checkpoint(model, folders[-1] / "weights.pt")
    return model
