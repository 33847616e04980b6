"""Real conversions of tiny networks, checked with this environment's own runtimes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.converter.conftest import NETS, REFUSED, Outcome
from torchopt2edge.converter import Conversion, Environment, convert
from torchopt2edge.errors import ConverterError, StoreError
from torchopt2edge.stats.sqnr import sqnr_db

GOOD = [name for name in NETS if name not in REFUSED]


def parity(source: Path, made: Conversion) -> dict[str, float]:
    """Return dB per output, of inputs and outputs carried over as the conversion says."""
    from ai_edge_litert.interpreter import Interpreter

    rng = np.random.default_rng(7)
    feed = {spec.name: rng.standard_normal(spec.shape).astype(spec.dtype) for spec in made.inputs}
    wanted = onnxruntime.InferenceSession(source).run([spec.name for spec in made.outputs], feed)
    interpreter = Interpreter(model_path=str(made.path), num_threads=1)
    given = {}
    for spec in made.inputs:
        value = feed[spec.name]
        given[spec.file_name] = value.transpose(spec.perm) if spec.perm else value
    produced = interpreter.get_signature_runner("serving_default")(**given)
    result = {}
    for spec, reference in zip(made.outputs, wanted, strict=True):
        value = produced[spec.file_name]
        back = value.transpose(np.argsort(spec.perm)) if spec.perm else value
        assert back.shape == reference.shape
        result[spec.name] = sqnr_db(reference, back)
    return result


@pytest.mark.parametrize("name", GOOD)
def test_the_file_computes_what_the_onnx_computes(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.error is None
    assert outcome.conversion is not None
    assert outcome.conversion.parity_db > 95
    for output, decibels in parity(outcome.onnx, outcome.conversion).items():
        assert decibels > 95, output


@pytest.mark.parametrize("name", GOOD)
def test_names_and_order_are_the_sources(name: str, outcomes: dict[str, Outcome]) -> None:
    made = outcomes[name].conversion
    assert made is not None
    assert tuple(spec.name for spec in made.inputs) == NETS[name].inputs
    assert tuple(spec.name for spec in made.outputs) == NETS[name].outputs
    assert tuple(spec.shape for spec in made.inputs) == NETS[name].shapes


def test_layouts(outcomes: dict[str, Outcome]) -> None:
    perms = {
        name: [spec.perm for spec in (*made.inputs, *made.outputs)]
        for name, outcome in outcomes.items()
        if (made := outcome.conversion) is not None
    }
    nhwc = (0, 2, 3, 1)
    assert perms["mlp"] == [None, None]
    assert perms["cnn"] == [nhwc, None]
    assert perms["two"][:3] == [nhwc, None, None]


def test_names_that_no_signature_can_hold_are_mapped(outcomes: dict[str, Outcome]) -> None:
    made = outcomes["two"].conversion
    assert made is not None
    assert {spec.name: spec.file_name for spec in made.outputs} == {
        "scores": "scores",
        "a/mask:0": "a_mask_0",
    }


@pytest.mark.parametrize("name", NETS)
def test_the_source_is_left_alone(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert hashlib.sha256(outcome.onnx.read_bytes()).hexdigest() == outcome.digest


def test_only_the_file_and_the_log_are_left(outcomes: dict[str, Outcome]) -> None:
    made = outcomes["cnn"].conversion
    assert made is not None
    assert {path.name for path in made.path.parent.iterdir()} == {"float.tflite", "converter.log"}
    assert {"onnx2tf", "onnx", "onnxruntime", "python"} <= set(made.versions)


def test_an_operator_that_cannot_be_lowered_is_named(outcomes: dict[str, Outcome]) -> None:
    error = outcomes["determinant"].error
    if error is None:
        pytest.skip("NOT TESTED: this onnx2tf lowers Det")
    assert isinstance(error, ConverterError)
    assert "operator Det" in error.what
    assert "converter.log" in (error.hint or "")


def graph(nodes: list[onnx.NodeProto], path: Path) -> Path:
    """Write a graph x → y of [1, 3, 8, 8]."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in ("x", "y")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.ops", 1)]
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])
    body = helper.make_graph(nodes, "g", ends[:1], ends[1:], [scale])
    onnx.save(helper.make_model(body, opset_imports=opsets, ir_version=9), path)
    return path


def test_what_was_said_before_an_exit_is_quoted(tmp_path: Path, env: Environment) -> None:
    """onnx2tf 1.x prints what is wrong and exits, in the middle of a conversion."""
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [-1])
    nodes = [
        helper.make_node("Constant", [], ["axis"], value=axis),
        helper.make_node("Unsqueeze", ["x", "axis"], ["u"]),
        helper.make_node("Concat", ["u", "u"], ["c"], axis=-1),
        helper.make_node("DFT", ["c"], ["d"], name="waves", axis=2),
        helper.make_node("ReduceSum", ["d", "axis"], ["y"], keepdims=0),
    ]
    with pytest.raises(ConverterError) as caught:
        convert(graph(nodes, tmp_path / "f.onnx"), tmp_path / "f.tflite", env=env)
    if "onnx2tf 1." not in caught.value.what:
        pytest.skip("NOT TESTED: this onnx2tf does not exit")
    assert "operator DFT (node waves)" in caught.value.what
    assert "SystemExit" not in caught.value.what


def test_an_output_that_is_a_constant_is_named(tmp_path: Path, env: Environment) -> None:
    path = graph([helper.make_node("Relu", ["x"], ["y"])], tmp_path / "c.onnx")
    proto = onnx.load(path)
    proto.graph.node.append(helper.make_node("Identity", ["s"], ["anchors"]))
    proto.graph.output.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, []))
    onnx.save(proto, path)
    with pytest.raises(ConverterError, match=r"on the input: anchors.*beside the model"):
        convert(path, tmp_path / "c.tflite", env=env)


def test_a_custom_operator_is_named(tmp_path: Path, env: Environment) -> None:
    nodes = [helper.make_node("Wobble", ["x"], ["y"], name="odd_one", domain="my.ops")]
    with pytest.raises(ConverterError, match=r"operator Wobble \(node odd_one\)"):
        convert(graph(nodes, tmp_path / "w.onnx"), tmp_path / "out" / "w.tflite", env=env)
    assert not (tmp_path / "out" / "w.tflite").exists()


def test_a_quantized_graph_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    never = Environment(Path("/nowhere/python"))
    with pytest.raises(ConverterError, match=r"already quantized \(2 .*quantize the .tflite"):
        convert(graph(nodes, tmp_path / "q.onnx"), tmp_path / "q.tflite", env=never)


def fake(tmp_path: Path, script: str) -> Environment:
    """Return an environment whose interpreter is a shell script."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return Environment(python)


def relu(tmp_path: Path) -> Path:
    return graph([helper.make_node("Relu", ["x"], ["y"])], tmp_path / "relu.onnx")


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: object, seconds: float = 20) -> bool:
    """Wait for a condition; return whether it came true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    env = fake(tmp_path, f"sleep 600 & echo $$ $! > {pids}; echo busy; wait")
    with pytest.raises(ConverterError, match="more than 1 s"):
        convert(relu(tmp_path), tmp_path / "o" / "a.tflite", env=env, timeout_s=1)
    family = [int(pid) for pid in pids.read_text().split()]
    assert len(family) == 2
    assert until(lambda: not any(alive(pid) for pid in family), 5)
    assert (tmp_path / "o" / "converter.log").read_text() == "busy\n"


def test_a_killed_child_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConverterError, match="killed by SIGKILL, as the system does when memory"):
        convert(relu(tmp_path), tmp_path / "a.tflite", env=fake(tmp_path, "kill -9 $$"))


def test_a_crash_quotes_the_log(tmp_path: Path) -> None:
    with pytest.raises(ConverterError, match=r"status 3 and no result:\n  the cause\n"):
        convert(relu(tmp_path), tmp_path / "a.tflite", env=fake(tmp_path, "echo the cause; exit 3"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        convert(relu(tmp_path), tmp_path / "file" / "a.tflite", env=fake(tmp_path, "exit 0"))


def test_a_killed_parent_takes_its_child_along(tmp_path: Path, env: Environment) -> None:
    code = (
        "import sys; from pathlib import Path; from torchopt2edge.converter import convert, find; "
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), env=find())"
    )
    command = [sys.executable, "-c", code, str(relu(tmp_path)), str(tmp_path / "a.tflite")]
    parent = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)})
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    # The child writes this once it is under way.
    assert until(lambda: list(tmp_path.glob("torchopt2edge-*/calibration*")))
    (child,) = (int(pid) for pid in children.read_text().split())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert until(lambda: not alive(child), 1), "it works on for seconds more"


def test_no_network_is_needed(tmp_path: Path, env: Environment, exported: dict[str, Path]) -> None:
    cut = ["unshare", "-n"]
    if shutil.which("unshare") is None or subprocess.run([*cut, "true"], check=False).returncode:
        pytest.skip("NOT TESTED: cutting the network takes `unshare -n`, which is not allowed here")
    code = (
        "import json, socket, sys; from pathlib import Path; "
        "from torchopt2edge.converter import convert, find; "
        "made = convert(Path(sys.argv[1]), Path(sys.argv[2]), env=find()); "
        "print(json.dumps([[name for _, name in socket.if_nameindex()], made.parity_db, "
        "made.inputs[0].perm]))"
    )
    command = [*cut, sys.executable, "-c", code, str(exported["cnn"]), str(tmp_path / "a.tflite")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    interfaces, decibels, perm = json.loads(done.stdout)
    assert interfaces == ["lo"]
    assert decibels > 95
    assert perm == [0, 2, 3, 1], "the first attempt failed and the other layout was taken"
