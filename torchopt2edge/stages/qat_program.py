"""A net as a graph that can be trained while quantized: trace it, switch its modes, convert it.

torchao fuses a convolution with its batch normalization as if the latter's eps were 1e-5 and its
momentum 0.1, whatever they are; the true ones are put back here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from torchopt2edge.errors import ConfigError, ExportError, TrainError
from torchopt2edge.stages.parity import named_outputs
from torchopt2edge.stages.qat_fold import constant, fold, put
from torchopt2edge.stages.torch_export import hushed, program_of
from torchopt2edge.stats.sqnr import sqnr_db

if TYPE_CHECKING:
    from torchao.quantization.pt2e import FakeQuantize

_LEAST_GAMMA = 1e-6  # torchao divides by it
_ALIKE_DB = 60.0
_FREE = "take the batch size from the input (x.flatten(1), x.shape[0])"
_ATEN = torch.ops.aten


class Trainee(nn.Module):
    """A net with fake quantization at the spots: trained, moved and saved like any module.

    In train mode batch normalization and the observers of activations learn their statistics,
    until they are frozen; in eval mode they do not. The weights' scales always follow the weights.
    """

    def __init__(self, program: GraphModule, norms: Mapping[str, tuple[float, float]]) -> None:
        super().__init__()
        self.program = program
        self.norms = dict(norms)
        self.frozen_norms = False
        self.frozen_observers = False
        self.eval()

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Take and return what the net does."""
        return self.program(*inputs, **named)

    def train(self, mode: bool = True) -> Trainee:
        """Switch the modes that the traced graph holds as constants."""
        self.training = mode
        learning = mode and not self.frozen_norms
        if _set_modes(self.program, self.norms, norm=learning, dropout=mode):
            self.program.recompile()
        for fake in self.values():
            fake.enable_observer(mode and not self.frozen_observers)
        return self

    def freeze_batch_norm(self) -> None:
        """Use the statistics found so far from now on, as inference will."""
        self.frozen_norms = True
        self.train(self.training)

    def freeze_observers(self) -> None:
        """Keep the ranges of activations as they are from now on."""
        self.frozen_observers = True
        self.train(self.training)

    def calibrate(self, batches: Iterable[tuple[Tensor, ...]]) -> None:
        """Observe the float net on batches of inputs: where the ranges start from."""
        self.eval()
        fakes = list(self.fakes())
        for fake in fakes:
            fake.disable_fake_quant()
        for fake in self.values():
            fake.enable_observer()
        with torch.no_grad():
            for batch in batches:
                self(*batch)
        for fake in fakes:
            fake.enable_fake_quant()
        self.eval()

    def fakes(self) -> Iterator[FakeQuantize]:
        """Yield every fake quantizer."""
        from torchao.quantization.pt2e import FakeQuantize

        return (module for module in self.program.modules() if isinstance(module, FakeQuantize))

    def values(self) -> Iterator[FakeQuantize]:
        """Yield those of activations whose ranges are learned."""
        from torchao.quantization.pt2e import MovingAverageMinMaxObserver

        for fake in self.fakes():
            if isinstance(fake.activation_post_process, MovingAverageMinMaxObserver):
                yield fake


def prepare(net: nn.Module, inputs: dict[str, Tensor], bits: int) -> Trainee:
    """Trace a copy of ``net`` and put fake quantizers at the spots; weights get ``bits``.

    Raises:
        ExportError: it cannot be traced with a free batch, or the traced graph computes
            something else than the net.
        ConfigError: the bits are not from 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise ConfigError(
            f"weights of {bits} bits cannot be trained", hint="weight_bits from 2 to 8"
        )
    net = _traceable(net)
    try:
        with torch.no_grad():
            wanted = named_outputs(net(*inputs.values()))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(
            f"the net does not run on a batch of its example inputs: {error}",
            artifact=type(net).__name__,
            hint=_FREE,
        ) from error
    program, reason = program_of(net, inputs)
    if reason is not None:
        raise ExportError(
            f"the net fixes its batch, so it cannot be trained quantized: {reason}",
            artifact=type(net).__name__,
            hint=_FREE,
        )
    with hushed():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
        from torchao.quantization.pt2e.utils import _fuse_linear_bn_

        from torchopt2edge.stages.qat_quantizers import Spots

        graph = program.module(check_guards=False)
        _functional(graph)
        _fuse_linear_bn_(graph)
        norms = dict(_norms(graph))
        made = prepare_qat_pt2e(graph, Spots(bits))
    for method in ("train", "eval"):
        vars(made).pop(method, None)  # torchao's stand-ins, which only raise
    trainee = Trainee(made, norms)
    for fake in trainee.fakes():
        fake.disable_fake_quant()
    with torch.no_grad():
        refuse_other(wanted, named_outputs(trainee(*inputs.values())), _ALIKE_DB)
    for fake in trainee.fakes():
        fake.enable_fake_quant()
    return trainee


def convert(trainee: Trainee, inputs: dict[str, Tensor]) -> GraphModule:
    """Return the trained net with quantize and dequantize operations for its fake quantizers.

    Batch normalization is folded into the convolutions; weights are kept as int8 codes.

    Raises:
        TrainError: it never ran in train mode, so that no range is known.
    """
    trainee = copy.deepcopy(trainee).cpu().eval()
    if any(torch.isinf(fake.activation_post_process.min_val).any() for fake in trainee.values()):
        raise TrainError(
            "the net never saw a batch in train mode, so no range is learned",
            hint="run q.model in train mode, or q.calibrate(batches), before q.finish()",
        )
    fold(trainee.program)
    with torch.no_grad(), hushed():
        trainee(*inputs.values())  # the weights' scales as the weights and statistics now are
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        levels = {fake.levels for fake in trainee.fakes() if hasattr(fake, "levels")}
        made: GraphModule = convert_pt2e(trainee.program)
        for method in ("train", "eval"):
            vars(made).pop(method, None)
        for few in levels - {127}:
            _to_int8(made, few)
    return made


def floating(converted: GraphModule) -> GraphModule:
    """Return the same net in float: weights as the integers stand for, activations unrounded."""
    made = copy.deepcopy(converted)
    for index, node in enumerate(list(made.graph.nodes)):
        if not _kind(node).startswith("dequantize_per"):
            continue
        source = node.args[0]
        if _kind(source).startswith("quantize_per"):
            node.replace_all_uses_with(source.args[0])
            continue
        node.replace_all_uses_with(put(made, f"_float_{index}", _value(made, node), node))
    made.graph.eliminate_dead_code()
    return GraphModule(made, made.graph)  # with what the graph still reads, and nothing else


def _traceable(net: nn.Module) -> nn.Module:
    """Copy the net; a channel that normalization multiplies by 0 gets the least there can be."""
    net = copy.deepcopy(net).cpu().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.weight is None:
                module.weight = nn.Parameter(torch.ones(module.num_features), requires_grad=False)
                module.bias = nn.Parameter(torch.zeros(module.num_features), requires_grad=False)
            small = module.weight.detach().abs() < _LEAST_GAMMA
            module.weight.data[small] = _LEAST_GAMMA
    return net


def _functional(graph: GraphModule) -> None:
    """Write in-place operations as those that return, and silu as its two steps."""
    nodes = list(graph.graph.nodes)
    for at, node in enumerate(nodes):
        schema = getattr(node.target, "_schema", None)
        base = schema.name.removeprefix("aten::") if schema else ""
        if schema and base.endswith("_") and hasattr(_ATEN, base[:-1]):
            changed = node.args[0]
            node.target = getattr(getattr(_ATEN, base[:-1]), schema.overload_name or "default")
            for later in nodes[at + 1 :]:
                later.replace_input_with(changed, node)
            base = base[:-1]
        if base == "silu":
            with graph.graph.inserting_before(node):
                share = graph.graph.call_function(_ATEN.sigmoid.default, (node.args[0],))
            share.meta = dict(node.meta)
            node.target, node.args = _ATEN.mul.Tensor, (node.args[0], share)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _norms(graph: GraphModule) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield (name of the running variance, (eps, momentum)) of every batch normalization."""
    for node in graph.graph.nodes:
        if node.target == _ATEN.batch_norm.default and isinstance(node.args[4], Node):
            yield str(node.args[4].target), (node.args[7], node.args[6])


def _set_modes(
    graph: GraphModule, norms: Mapping[str, tuple[float, float]], norm: bool, dropout: bool
) -> bool:
    """Write the modes, and each normalization's own numbers; tell whether anything changed."""
    changed = False
    for node in graph.graph.nodes:
        before = node.args
        if node.target == _ATEN.batch_norm.default and isinstance(node.args[4], Node):
            eps, momentum = norms[str(node.args[4].target)]
            node.args = (*node.args[:5], norm, momentum, eps, *node.args[8:])
        elif node.target == _ATEN.dropout.default:
            node.args = (*node.args[:2], dropout)
        elif node.target == _ATEN.add.Tensor and str(getattr(node.args[0], "target", "")) in norms:
            node.args = (node.args[0], norms[str(node.args[0].target)][0])
        changed |= node.args != before
    return changed


def refuse_other(wanted: dict[str, Tensor], got: dict[str, Tensor], least_db: float) -> None:
    """Hold what was rewritten against what it was.

    Raises:
        ExportError: an output agrees to less than ``least_db``.
    """
    for name, reference in wanted.items():
        agreement = sqnr_db(reference.numpy(), got[name].numpy())
        if not agreement >= least_db:
            raise ExportError(
                f"the net, rewritten for quantization, agrees with itself in {name} to "
                f"{agreement:.1f} dB only, not {least_db:.0f}",
                hint="look for weights that two layers share, or for writing into part of a tensor",
            )


def _kind(node: Node) -> str:
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else node.op


def _value(graph: GraphModule, node: Node) -> Tensor:
    """Compute a dequantization of constants."""
    given = [constant(graph, value) for value in node.args]
    kwargs = {key: value for key, value in node.kwargs.items() if value is not None}
    made: Tensor = node.target(*given, **kwargs)  # type: ignore[operator]
    return made


def _to_int8(graph: GraphModule, levels: int) -> None:
    """Write codes in -levels … levels as codes of the 127 grid, and the scales with them."""
    from torchopt2edge.stages.qat_quantizers import on_int8

    for node in graph.graph.nodes:
        if _kind(node) == "dequantize_per_channel.default" and node.args[0].op == "get_attr":
            codes, scale = constant(graph, node.args[0]), constant(graph, node.args[1])
            codes.copy_(on_int8(codes.float(), levels))
            scale.mul_(levels / 127)
            node.args = (*node.args[:4], -127, 127, *node.args[6:])
