from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests import nets
from tests.stages.conftest import Run
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError, ExportError
from torchopt2edge.stages.export import Export, export_module
from torchopt2edge.stages.parity import check_parity, sqnr_db
from torchopt2edge.stages.prune import Prune
from torchopt2edge.types import Artifact, Signature

Save = Callable[[nn.Module, Callable[..., nn.Module]], Artifact]


class Two(nn.Module):
    """Two inputs, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        x = self.conv(image)
        return {"features": x, "pooled": x.mean((2, 3)) * scale}


class OneByOne(nn.Module):
    """Has the batch size written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer(image.reshape(1, 12))
        return x, x.softmax(1)


class Undecided(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * 2 if image.sum() > 0 else image


class Constant(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * 0 + 1


def _run(folder: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def _signature(folder: Path) -> Signature:
    return Signature.from_json(json.loads((folder / "signature.json").read_text()))


def test_pruned_net_exports_with_parity_at_any_batch(run: Run, artifact: Save, digits: Digits):
    given = artifact(nets.lively(nets.tiny_resnet()), nets.tiny_resnet)
    pruned = run(Prune(data=digits, macs=0.6, round_to=2, epochs=0), source=given)
    made = run(Export(data=digits, source="pruned"), source=pruned)
    assert made.kind == "onnx"
    facts = made.facts
    assert facts["parity_db"] > 90
    assert (facts["parity_agreement"], facts["parity_batches"]) == (100.0, [1, 4])
    assert (facts["dynamic_batch"], facts["opset"]) == (True, 18)
    assert (facts["macs"], facts["params"]) == (pruned.facts["macs"], pruned.facts["params"])
    assert facts["ops"]["GlobalAveragePool"] == 1
    assert sum(facts["ops"].values()) == facts["nodes"]
    assert json.loads(json.dumps(facts)) == facts
    proto = onnx.load(made.path / "model.onnx")
    assert [o.version for o in proto.opset_import if o.domain == ""] == [18]
    x = torch.randn(3, *digits.input_shape)
    [got] = _run(made.path, {"image": x.numpy()})
    program = torch.export.load(made.path / "model.pt2").module()
    np.testing.assert_allclose(got, program(x).detach().numpy(), atol=1e-3, rtol=1e-3)


def test_signature_has_the_forwards_names(tmp_path: Path):
    torch.manual_seed(0)
    facts = export_module(Two(), (torch.randn(4, 3, 8, 8), torch.randn(4, 1)), tmp_path)
    signature = _signature(tmp_path)
    assert [(s.name, s.shape, s.dtype) for s in signature.inputs] == [
        ("image", (-1, 3, 8, 8), "float32"),
        ("scale", (-1, 1), "float32"),
    ]
    assert [(s.name, s.shape) for s in signature.outputs] == [
        ("features", (-1, 4, 6, 6)),
        ("pooled", (-1, 4)),
    ]
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [v.name for v in graph.input] == ["image", "scale"]
    assert [v.name for v in graph.output] == ["features", "pooled"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {"GlobalAveragePool", "Flatten"} <= facts["ops"].keys()
    assert "macs" not in facts


def test_a_fixed_batch_is_kept_and_explained(tmp_path: Path):
    facts = export_module(OneByOne(), (torch.randn(4, 3, 2, 2),), tmp_path)
    assert facts["dynamic_batch"] is False
    assert "[1, 12]" in facts["static_reason"]
    assert facts["parity_batches"] == [1]
    assert facts["parity_db"] > 90
    assert [s.shape for s in _signature(tmp_path).inputs] == [(1, 3, 2, 2)]
    assert [s.name for s in _signature(tmp_path).outputs] == ["output_0", "output_1"]
    assert len(_run(tmp_path, {"image": np.zeros((1, 3, 2, 2), np.float32)})) == 2


def test_control_flow_on_data_is_named(tmp_path: Path):
    with pytest.raises(ExportError, match=r"data-dependent.*\[Undecided\].*control flow"):
        export_module(Undecided(), (torch.randn(2, 3),), tmp_path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path):
    net = nets.lively(nets.Residual())
    with torch.no_grad():
        net.head.bias[2] = float("nan")
    with pytest.raises(ExportError, match="output that are not finite"):
        export_module(net, (torch.randn(4, 3, 8, 8),), tmp_path)


def test_another_nets_file_fails_parity(tmp_path: Path):
    net = nets.lively(nets.Residual())
    images = torch.randn(4, 3, 8, 8)
    export_module(net, (images,), tmp_path)
    assert check_parity(net, {"image": images}, tmp_path / "model.onnx", (1, 2))["parity_db"] > 90
    with torch.no_grad():
        net.head.weight[0, 0] += 0.1
    with pytest.raises(ExportError, match=r"\d dB only, not 60"):
        check_parity(net, {"image": images}, tmp_path / "model.onnx", (1, 2))


def test_outputs_that_ignore_the_input_are_no_proof(tmp_path: Path):
    facts = export_module(Constant(), (torch.randn(4, 3),), tmp_path)
    assert "proves nothing" in facts["parity_warning"]
    lively = export_module(nets.lively(nets.Residual()), (torch.randn(4, 3, 8, 8),), tmp_path)
    assert "parity_warning" not in lively


def test_sqnr_by_hand():
    reference = np.array([3.0, 4.0])
    assert sqnr_db(reference, reference + np.array([0.3, 0.4])) == pytest.approx(20)
    assert sqnr_db(reference, reference) == 200.0, "the limit of `stats.sqnr`"


def test_wrong_inputs_are_explained(tmp_path: Path):
    with pytest.raises(ExportError, match=r"1 example inputs for a forward\(image, scale\)"):
        export_module(Two(), (torch.randn(2, 3, 8, 8),), tmp_path)
    with pytest.raises(ExportError, match=r"does not run on one sample.*\[Residual\]"):
        export_module(nets.Residual(), (torch.randn(2, 5, 8, 8),), tmp_path)
    with pytest.raises(ConfigError, match="opset"):
        export_module(nets.Residual(), (torch.randn(2, 3, 8, 8),), tmp_path, opset=13)


def test_the_model_keeps_its_mode_and_nothing_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    net = nets.lively(nets.Residual()).train()
    net.stem_bn.eval()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        export_module(net, (torch.randn(4, 3, 8, 8),), tmp_path)
    assert net.training
    assert not net.stem_bn.training
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_no_path_of_this_machine_is_in_the_file(tmp_path: Path):
    export_module(nets.lively(nets.Residual()), (torch.randn(4, 3, 8, 8),), tmp_path)
    raw = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in raw
    assert str(Path(__file__).parent).encode() not in raw
