from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.hub import Made
from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.decide import AUTO, UNMEASURED, decide
from torchopt2edge.quantize.fake_quant import simulation
from torchopt2edge.quantize.held_out import Validation
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.samples.calibration_set import Samples, write_samples
from torchopt2edge.store import Store
from torchopt2edge.types import Ranges, TensorSpec
from torchopt2edge.workflow import calibration


def decided(made: Made, out: Path, **options) -> tuple[dict, Ranges]:
    judging = partial(Validation, samples=made.kept)
    facts = decide(made.graph.path / "model.onnx", made.kept, Quantize(**options), out, judging)
    return facts, Ranges.from_json(json.loads((out / "ranges.json").read_text()))


def test_auto_takes_the_observer_that_keeps_most_and_says_so(tiny: Made, tmp_path: Path) -> None:
    facts, ranges = decided(tiny, tmp_path, equalize=False, bias_correction=False)
    tried = facts["sqnr_by_calibrator"]
    assert set(tried) == set(AUTO)
    assert tried[facts["calibrator"]] >= max(tried.values()) - 0.1
    assert ranges.origin == f"calibrated:{facts['calibrator']}"
    assert facts["calibrator"] in facts["why"]
    measured = simulation(onnx.load(tiny.graph.path / "model.onnx"), tiny.kept).sqnr(ranges)
    assert measured == pytest.approx(facts["sqnr_db"], abs=0.01)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["minmax", "ema", "percentile", "mse", "entropy"])
def test_a_named_calibrator_is_taken_as_it_is(tiny: Made, tmp_path: Path, name: str) -> None:
    facts, ranges = decided(tiny, tmp_path, observer=name)
    assert ranges.origin == f"calibrated:{name}"
    assert facts["calibrator"] == name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"observer": "magic"}, "minmax"),
        ({"equalize": "maybe"}, "auto"),
        ({"exclude": ("no_such_node*",)}, "quantize.exclude"),
    ],
)
def test_what_there_is_not_is_refused_with_the_choices(
    tiny: Made, tmp_path: Path, options: dict, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        decided(tiny, tmp_path, **options)
    assert said in str(caught.value)


def test_a_changed_graph_is_kept_when_it_was_asked_for(tiny: Made, tmp_path: Path) -> None:
    facts, ranges = decided(tiny, tmp_path, bias_correction=True, equalize=True)
    assert facts["bias_correction"]
    changed = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(changed)
    source = tiny.graph.path / "model.onnx"
    again = simulation(changed, tiny.kept, reference=onnx.load(source)).sqnr(ranges)
    assert again == pytest.approx(facts["sqnr_db"], abs=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {
        "decision.json",
        "model.onnx",
        "ranges.json",
    }


def test_auto_leaves_a_good_graph_alone(tiny: Made, tmp_path: Path) -> None:
    facts, _ = decided(tiny, tmp_path, poor_db=-100.0)
    assert "equalize" not in facts
    assert "bias_correction" not in facts


def test_auto_tries_when_the_outputs_are_poor_and_keeps_only_what_helps(
    tiny: Made, tmp_path: Path
) -> None:
    facts, ranges = decided(tiny, tmp_path, poor_db=1000.0)
    assert "bias_correction" in facts
    source = tiny.graph.path / "model.onnx"
    used = tmp_path / "model.onnx" if (tmp_path / "model.onnx").exists() else source
    best = max(facts["sqnr_by_calibrator"].values())
    measured = simulation(onnx.load(used), tiny.kept, reference=onnx.load(source))
    assert measured.sqnr(ranges) >= best - 0.2


def test_named_nodes_stay_in_float(tiny: Made, tmp_path: Path) -> None:
    graph = onnx.load(tiny.graph.path / "model.onnx").graph
    convs = [node.name for node in graph.node if node.op_type == "Conv"]
    _, ranges = decided(tiny, tmp_path, observer="minmax", exclude=(convs[0],))
    assert ranges.excluded == (convs[0],)


def test_the_ranking_has_every_operator_once(tiny: Made, tmp_path: Path) -> None:
    facts, _ = decided(tiny, tmp_path, observer="minmax", sensitivity=True)
    ops = [one["op"] for one in facts["sensitivity"]]
    proto = onnx.load(tiny.graph.path / "model.onnx")
    assert sorted(ops) == sorted(simulation(proto, tiny.kept).ops)


def test_no_budget_keeps_everything_in_integers_and_a_hopeless_one_says_so(
    tiny: Made, tmp_path: Path
) -> None:
    for name, budget in (("loose", 100.0), ("tight", -1.0)):
        (tmp_path / name).mkdir()
        facts, ranges = decided(tiny, tmp_path / name, observer="minmax", max_drop=budget)
        mixed = facts["mixed"]
        assert tuple(mixed["excluded"]) == ranges.excluded
        assert mixed["evaluations"] <= 10
        assert mixed["met"] is (name == "loose")
        if name == "loose":
            assert ranges.excluded == ()


def test_learned_ranges_are_kept_and_the_rest_is_calibrated(tiny: Made, tmp_path: Path) -> None:
    name = next(n for n in tiny.ranges.bounds if n not in tiny.inputs)
    learned = replace(tiny.ranges, bounds={name: (-1.25, 2.5)}, origin="learned:qat")
    graph = tiny.graph.path / "model.onnx"
    facts = decide(graph, tiny.kept, Quantize(), tmp_path, learned=learned)
    ranges = Ranges.from_json(json.loads((tmp_path / "ranges.json").read_text()))
    assert ranges.bounds[name] == (-1.25, 2.5)
    assert set(ranges.bounds) == set(tiny.ranges.bounds)
    assert facts["origin"] == "learned:qat"
    assert not (tmp_path / "model.onnx").exists()


def test_validation_counts_labels_where_there_are_some(tiny: Made, tmp_path: Path) -> None:
    graph = tiny.graph.path / "model.onnx"
    images = tiny.inputs["image"]
    labels = np.arange(len(images)) % 10
    spec = (TensorSpec("image", (-1, 3, 32, 32)),)
    write_samples([(images, labels)], spec, 24, "validation", tmp_path)
    labelled = Validation(onnx.load(graph), Samples(tmp_path))
    plain = Validation(onnx.load(graph), tiny.kept)
    assert (labelled.metric, plain.metric) == ("top1", "agreement")
    wide = {key: (-1e6, 1e6) for key in tiny.ranges.bounds}
    assert plain.drop(tiny.ranges) < plain.drop(replace(tiny.ranges, bounds=wide))
    assert 0 <= plain.drop(tiny.ranges) <= 100
    assert abs(labelled.drop(tiny.ranges)) <= 100


def test_a_decision_is_made_once(tiny: Made, hub_store: Store) -> None:
    options = Quantize(bias_correction=True, equalize=False)
    first = calibration.decide(tiny.graph, tiny.samples, hub_store, options)
    again = calibration.decide(tiny.graph, tiny.samples, hub_store, options)
    assert first == again
    assert first.graph.digest != tiny.graph.digest
    assert (first.graph.path / "signature.json").is_file()
    plain = calibration.decide(tiny.graph, tiny.samples, hub_store, Quantize(observer="minmax"))
    assert plain.graph == tiny.graph


def test_a_graph_without_a_float_output_is_calibrated_all_the_same(
    tiny: Made, tmp_path: Path
) -> None:
    proto = onnx.load(tiny.graph.path / "model.onnx")
    scores = proto.graph.output[0].name
    proto.graph.node.append(onnx.helper.make_node("ArgMax", [scores], ["best"], "best", axis=1))
    del proto.graph.output[:]
    best = onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, None)
    proto.graph.output.append(best)
    (tmp_path / "out").mkdir()
    onnx.save(onnx.shape_inference.infer_shapes(proto), tmp_path / "model.onnx")
    facts = decide(tmp_path / "model.onnx", tiny.kept, Quantize(), tmp_path / "out")
    assert facts["origin"] == f"calibrated:{UNMEASURED}"
    assert facts["sqnr_db"] is None
    assert "no float output" in facts["why"]
