"""docs/models.md says what the configs build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from torchopt2edge.models import count, timm_net, torchvision_net

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines()]
NETS = {row[0][1:-1]: row for row in ROWS if len(row) == 7 and re.fullmatch(r"`\w+`", row[0])}
CHEAP = ("mobilenet_v3_small", "mobilenetv4_conv_small", "shufflenet_v2_x0_5", "squeezenet1_1")


def config(option: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(
        (ROOT / "conf" / "model" / f"{option}.yaml").read_text()
    )
    return found


def test_every_model_stands_there() -> None:
    options = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    assert options <= set(re.findall(r"`(\w+)`", PAGE))


@pytest.mark.parametrize("option", CHEAP)
def test_the_numbers_are_those_of_the_nets(option: str) -> None:
    made = config(option)
    module = timm_net if "timm" in str(made["_target_"]) else torchvision_net
    build = getattr(module, str(made["_target_"]).rpartition(".")[2])
    _, _, at, params, macs, small, _ = NETS[option]
    net = build(made["name"])
    assert f"{count.params(net) / 1e6:.2f}" == params
    assert f"{count.macs(net, (3, int(at), int(at))) / 1e6:.0f}" == macs
    net = build(made["name"], num_classes=10, small_input=True)
    assert round(count.macs(net, (3, 32, 32)) / 1e6) == pytest.approx(int(small), abs=1)


def test_the_preprocessing_is_that_of_the_weights() -> None:
    seen = set()
    for row in (row for row in ROWS if len(row) == 5 and row[0].startswith("`")):
        for option in re.findall(r"`(\w+)`", row[0]):
            made = config(option)
            module = timm_net if "timm" in str(made["_target_"]) else torchvision_net
            found = module.published_preprocess(str(made["name"]))
            told = (int(row[1]), int(row[2]), row[3])
            assert found.crop is not None
            assert told == (found.crop[0], found.resize, found.interpolation), option
            assert (row[4] == "as they are") == (found.mean == (0.485, 0.456, 0.406)), option
            seen.add(option)
    assert seen == set(NETS)
