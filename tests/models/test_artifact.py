from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.artifact import describe, load_checkpoint, load_model, save_model
from torchopt2edge.models.cifar_resnet import cifar_resnet
from torchopt2edge.store import code_of, digest_of

FACTORY = functools.partial(cifar_resnet, depth=8, num_classes=4, width=4)


class Trap:
    """Unpickling it makes a folder: proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_saved_net_comes_back_the_same(tmp_path: Path):
    net = FACTORY()
    net(torch.randn(4, 3, 16, 16))  # moves the BatchNorm statistics
    save_model(net, FACTORY, tmp_path)
    back = load_model(tmp_path)
    assert not back.training
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(back(x), net.eval()(x))
    assert not (tmp_path / "plan.json").exists()


def test_record_is_plain_data(tmp_path: Path):
    save_model(FACTORY(), FACTORY, tmp_path)
    record = json.loads((tmp_path / "model.json").read_text())
    code = record.pop("code")
    assert record == {
        "target": "torchopt2edge.models.cifar_resnet.cifar_resnet",
        "kwargs": {"depth": 8, "num_classes": 4, "width": 4},
    }
    assert code == code_of(cifar_resnet)
    assert code["tools"]["torch"] == version("torch")


def test_an_edited_net_is_another_artifact_whatever_its_weights(tmp_path, monkeypatch):
    """What is made of a net hangs on its ``forward`` as well, which no weight tells."""
    source = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.{}())\n"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def saved(layer: str) -> str:
        (tmp_path / "edited_net.py").write_text(source.format(layer))
        importlib.invalidate_caches()
        sys.modules.pop("edited_net", None)
        factory = importlib.import_module("edited_net").net
        out = tmp_path / layer
        save_model(factory(), factory, out)
        return digest_of(out)

    assert saved("ReLU") != saved("Hardswish")
    sys.modules.pop("edited_net")


def test_nested_partials_keep_the_outer_arguments():
    outer = functools.partial(functools.partial(cifar_resnet, depth=8, width=4), width=2)
    assert describe(outer)["kwargs"] == {"depth": 8, "width": 2}


def test_factories_that_cannot_be_built_again_are_refused():
    with pytest.raises(ModelError, match="module-level function"):
        describe(lambda: nn.Linear(1, 1))
    with pytest.raises(ModelError, match="not plain data"):
        describe(functools.partial(cifar_resnet, depth=nn.ReLU()))
    with pytest.raises(ModelError, match="positional"):
        describe(functools.partial(cifar_resnet, 8))


def test_missing_checkpoint(tmp_path: Path):
    with pytest.raises(ModelError, match=r"missing \[.*no\.pth\]"):
        load_checkpoint(FACTORY(), tmp_path / "no.pth")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_checkpoint(tmp_path: Path, keep: float):
    path = tmp_path / "w.pth"
    torch.save(FACTORY().state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ModelError, match="damaged"):
        load_checkpoint(FACTORY(), path)


def test_garbage_checkpoint(tmp_path: Path):
    path = tmp_path / "w.pth"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ModelError, match="damaged"):
        load_checkpoint(FACTORY(), path)


def test_pickled_module_is_refused(tmp_path: Path):
    torch.save(FACTORY(), tmp_path / "module.pth")
    with pytest.raises(ModelError, match="more than tensors"):
        load_checkpoint(FACTORY(), tmp_path / "module.pth")


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path):
    proof = tmp_path / "it-ran"
    torch.save({"conv1.weight": Trap(proof)}, tmp_path / "trap.pth")
    with pytest.raises(ModelError, match="would run its code"):
        load_checkpoint(FACTORY(), tmp_path / "trap.pth")
    assert not proof.exists()
    torch.load(tmp_path / "trap.pth", weights_only=False)
    assert proof.exists()  # the trap works: it was the refusal that held it


def test_other_objects_are_no_state_dict(tmp_path: Path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="not a state dict"):
        load_checkpoint(FACTORY(), tmp_path / "list.pth")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", ""])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, wrapper: str | None, prefix: str):
    source, target = FACTORY(), FACTORY()
    state: dict[str, object] = {prefix + k: v for k, v in source.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    load_checkpoint(target, tmp_path / "w.pth")
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_checkpoint_from_before_batch_counters_loads(tmp_path: Path):
    state = {k: v for k, v in FACTORY().state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    target = FACTORY()
    load_checkpoint(target, tmp_path / "old.pth")
    assert torch.equal(target.linear.weight, state["linear.weight"])


def test_mismatched_keys_name_the_nearest(tmp_path: Path):
    state = FACTORY().state_dict()
    state["fc.weight"] = state.pop("linear.weight")
    state["layer1.0.conv1.weight_"] = state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ModelError,
        match=r"layer1\.0\.conv1\.weight is missing \(nearest: layer1\.0\.conv1\.weight_\)",
    ):
        load_checkpoint(FACTORY(), tmp_path / "w.pth")


def test_mismatched_shapes_are_named(tmp_path: Path):
    torch.save(cifar_resnet(8, num_classes=9, width=4).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"linear\.bias is \(9,\), not \(4,\)"):
        load_checkpoint(FACTORY(), tmp_path / "w.pth")


def test_failed_load_leaves_the_model_alone(tmp_path: Path):
    torch.save(cifar_resnet(8, num_classes=9, width=4).state_dict(), tmp_path / "w.pth")
    net = FACTORY()
    before = net.conv1.weight.clone()
    with pytest.raises(ModelError):
        load_checkpoint(net, tmp_path / "w.pth")
    assert torch.equal(net.conv1.weight, before)


@pytest.mark.parametrize("name", ["model.json", "plan.json"])
def test_damaged_records(tmp_path: Path, name: str):
    save_model(FACTORY(), FACTORY, tmp_path)
    (tmp_path / name).write_text('{"half": ')
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        load_model(tmp_path)


def test_target_that_is_gone(tmp_path: Path):
    save_model(FACTORY(), FACTORY, tmp_path)
    record = {"target": "torchopt2edge.models.cifar_resnet.gone", "kwargs": {}}
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="cannot be imported"):
        load_model(tmp_path)
