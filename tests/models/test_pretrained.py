"""What a net starts from: a file, published weights, a classifier of its own."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.artifact import load_factory, load_model, save_model
from torchopt2edge.models.pretrained import head_of, weights_digest
from torchopt2edge.models.timm_net import timm_net
from torchopt2edge.models.torchvision_net import torchvision_net

NAME = "shufflenet_v2_x0_5"
build = functools.partial(torchvision_net, NAME)
PUBLISHED = "shufflenetv2_x0.5-f707e7126e.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torch.hub a folder of its own, and a proxy that nobody listens at."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def same(one: nn.Module, other: nn.Module, without: str = " ") -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[k], theirs[k]) for k in mine if not k.startswith(without))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_either_kind(tmp_path: Path, suffix: str) -> None:
    source, file = build(5), tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), file)
    assert same(build(5, weights=str(file)), source)


def test_a_damaged_safetensors_file(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="damaged"):
        build(5, weights=str(tmp_path / "w.safetensors"))


def test_another_number_of_classes_is_only_taken_on_wish(tmp_path: Path) -> None:
    source, file = build(7), str(tmp_path / "w.pth")
    torch.save(source.state_dict(), file)
    with pytest.raises(ModelError, match=r"has 7 outputs, the model 5.*new_head=true") as caught:
        build(5, weights=file)
    assert "num_classes=7" in str(caught.value)
    torch.manual_seed(1)
    net = build(5, weights=file, new_head=True)
    torch.manual_seed(1)
    assert torch.equal(net.fc.weight, build(5).fc.weight)
    assert same(net, source, without="fc.")


def test_a_new_head_where_the_numbers_are_equal(tmp_path: Path) -> None:
    source = build(5)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    net = build(5, weights=str(tmp_path / "w.pth"), new_head=True)
    assert same(net, source, without="fc.")
    assert not torch.equal(net.fc.weight, source.fc.weight)


def test_a_new_head_of_nothing() -> None:
    with pytest.raises(ModelError, match="there is none"):
        build(5, new_head=True)


def test_a_checkpoint_of_another_net_is_not_a_matter_of_the_head(tmp_path: Path) -> None:
    torch.save(torchvision_net("shufflenet_v2_x1_0", 5).state_dict(), tmp_path / "w.pth")
    for new_head in (False, True):
        with pytest.raises(ModelError, match="does not fit"):
            build(5, weights=str(tmp_path / "w.pth"), new_head=new_head)


@pytest.mark.parametrize(
    ("factory", "name", "head"),
    [
        (torchvision_net, "mobilenet_v3_small", "classifier.3"),
        (torchvision_net, "squeezenet1_1", "classifier.1"),
        (torchvision_net, "resnet18", "fc"),
        (timm_net, "mobilenetv4_conv_small_035", "classifier"),
    ],
)
def test_the_head_is_found(factory: functools.partial[nn.Module], name: str, head: str) -> None:
    assert head_of(factory(name, num_classes=7), 7) == head


def test_published_weights_are_taken_once_they_are_there(hub: Path) -> None:
    source = build()
    torch.save(source.state_dict(), hub / PUBLISHED)
    assert same(build(pretrained=True), source)
    small = build(5, pretrained=True, new_head=True, small_input=True)
    assert same(small, source, without="fc.")
    with pytest.raises(ModelError, match="has 1000 outputs, the model 5"):
        build(5, pretrained=True)


def test_without_a_network_it_says_what_to_do(hub: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be downloaded.*checkpoints/shufflenetv2"):
        build(pretrained=True)
    assert list(hub.iterdir()) == []


def test_timm_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot be downloaded.*weights=<file>"):
        timm_net("mobilenetv4_conv_small", pretrained=True)


def test_weights_that_nobody_published() -> None:
    with pytest.raises(ModelError, match=r"no weights of .*name: tf_efficientnet_lite1"):
        timm_net("efficientnet_lite1", pretrained=True)
    with pytest.raises(ModelError, match=r"no published weights of mobilenet_v2 with width 0\.5"):
        torchvision_net("mobilenet_v2", width=0.5, pretrained=True)


def test_a_file_and_published_weights_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot start from a file and"):
        build(weights=str(tmp_path / "w.pth"), pretrained=True)


def test_an_artifact_needs_nothing_that_it_started_from(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(build(5).state_dict(), file)
    factory = functools.partial(torchvision_net, name=NAME, num_classes=5, weights=str(file))
    net = factory()
    save_model(net, factory, tmp_path / "artifact")
    file.unlink()
    assert same(load_model(tmp_path / "artifact"), net)
    assert "weights" not in load_factory(tmp_path / "artifact").keywords


def test_what_a_file_holds_is_part_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    factory = functools.partial(functools.partial(torchvision_net, weights=str(file)), name=NAME)
    with pytest.raises(ModelError, match="missing"):
        weights_digest(factory)
    file.write_bytes(b"one")
    first = weights_digest(factory)
    file.write_bytes(b"two")
    assert len({"", first, weights_digest(factory)}) == 3
    assert weights_digest(build) == weights_digest(None) == ""
