"""One conversion, ONNX → float .tflite, run by the interpreter of the sealed environment.

Never imported by the package: ``convert.py`` copies it and the files that it imports into a
private folder that already holds ``model.onnx`` (embedded weights, static shapes), runs it there
and reads ``result.json`` back. It needs the standard library and the sealed packages.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter leaves it out
from layout import GOOD_DB, LayoutError, Measure, integer_limits
from names import constant_outputs, graph_names, keep_names, renamed, signature_names
from respell import respell
from rewrite import rewrite

PACKAGES = ("onnx2tf", "tensorflow", "onnx", "onnxruntime", "onnxsim", "ai-edge-litert", "numpy")
HINTS = (
    *("input_onnx_file_path: ", "onnx_op_name: ", "The trace log is below", "Read this and deal"),
    *("Alternatively, if the input OP", "If the input OP of ONNX", "Also, for models that include"),
)
NORMALIZING = {"InstanceNormalization", "LayerNormalization", "Softplus"}
SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"


class CannotConvert(Exception):
    """A failure that is understood: its kind, and the operator and node it is about."""

    def __init__(self, message: str, *, kind: str, op: str = "", node: str = "") -> None:
        super().__init__(message)
        self.kind, self.op, self.node = kind, op, node


def die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def versions() -> dict[str, str]:
    """Return the versions of what makes the file."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_sample_images() -> None:
    """Write the images that onnx2tf 1.x would otherwise download in mid-conversion."""
    images = np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)
    np.save(SAMPLE, images)


def lower_with_keras(model: onnx.ModelProto, keep: bool, norms: bool) -> bytes:
    """Convert with onnx2tf 1.x: its Keras model, frozen, then TensorFlow's own converter.

    onnx2tf's way of saving deep-copies every weight into a JSON configuration; this skips it.
    """
    import onnx2tf
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    inputs, outputs = (signature_names(names) for names in graph_names(model))
    # Names that no Keras layer bears.
    private = [f"edge_in_{i}" for i in range(len(inputs))]
    copy = renamed(model, private, [f"edge_out_{i}" for i in range(len(outputs))])
    simple = simplified(copy)
    ready = simple or copy
    respell(ready, norms)
    rewrite(ready)
    onnx.save(ready, "work.onnx")
    keras_model = onnx2tf.convert(
        input_onnx_file_path="work.onnx",
        output_folder_path="made",
        not_use_onnxsim=simple is not None,
        disable_model_save=True,
        keep_shape_absolutely_input_names=keep_names(copy, private) if keep else None,
        non_verbose=True,
    )
    order = [tensor.name for tensor in keras_model.inputs]
    by_name = dict(zip(order, keras_model.inputs, strict=True))
    if len(keras_model.outputs) != len(outputs):
        fixed = [outputs[place] for place in constant_outputs(copy)]
        raise CannotConvert(", ".join(fixed), kind="constant" if fixed else "lost")
    specs = [
        tf.TensorSpec(by_name[name].shape, by_name[name].dtype, name=public)
        for name, public in zip(private, inputs, strict=True)
    ]

    def forward(*values):  # type: ignore[no-untyped-def]
        given = dict(zip(private, values, strict=True))
        return tf.nest.flatten(keras_model([given[name] for name in order]))

    concrete = tf.function(forward, input_signature=specs).get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete)

    def serve(*values):  # type: ignore[no-untyped-def]
        return dict(zip(outputs, tf.nest.flatten(frozen(*values)), strict=True))

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=specs)
    tf.saved_model.save(module, "saved", signatures=module.serve.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_saved_model("saved")
    return converter.convert()


def read_resize_as_before() -> None:
    """Have onnx2tf 1.x read Resize of opset 18 and on by the rules that it has for older ones.

    It takes those of ``align_corners`` and ``asymmetric`` up to opset 17 alone, and whatever is
    newer for ``half_pixel``. What opset 18 brought (antialias, axes, a policy) is left to it.
    """
    import onnx2tf.ops.Resize as resize

    make_node = resize.make_node

    def make(*, graph_node, **others):  # type: ignore[no-untyped-def]
        policy = graph_node.attrs.get("keep_aspect_ratio_policy", "stretch")
        plain = not graph_node.attrs.get("antialias") and not graph_node.attrs.get("axes")
        if plain and policy == "stretch":
            others["opset"] = min(others["opset"], 17)
        return make_node(graph_node=graph_node, **others)

    resize.make_node = make


def simplified(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Simplify once, here; onnx2tf would start its program three times over. None: it must try."""
    import onnxsim

    try:
        simple, same = onnxsim.simplify(model)
    except Exception:  # onnxsim's native half raises what it likes; onnx2tf's own way is left
        traceback.print_exc()
        return None
    return simple if same else None


def lower_directly(model: onnx.ModelProto, keep: bool, norms: bool) -> bytes:
    """Convert with onnx2tf 2.x, which writes the flatbuffer itself; float32 is its sound format."""
    import onnx2tf

    inputs, outputs = (signature_names(names) for names in graph_names(model))
    copy = renamed(model, inputs, outputs)
    respell(copy, norms)
    onnx.save(copy, "work.onnx")
    onnx2tf.convert(
        input_onnx_file_path="work.onnx",
        output_folder_path="made",
        tflite_backend="flatbuffer_direct",
        copy_onnx_input_output_names_to_tflite=True,
        keep_shape_absolutely_input_names=keep_names(copy, inputs) if keep else None,
        non_verbose=True,
    )
    return Path("made/work_float32.tflite").read_bytes()


def attempts(model: onnx.ModelProto) -> list[tuple[bool, bool]]:
    """Return what to try: onnx2tf's own layout, then the inputs kept as the source has them.

    The second half of a pair says whether norms are written in other operators: a third try, where
    there are any.
    """
    inputs, _ = graph_names(model)
    tried = [(False, False), (True, False)] if keep_names(model, inputs) else [(False, False)]
    kinds = {node.op_type for node in model.graph.node}
    return [*tried, (False, True)] if kinds & NORMALIZING else tried


def convert() -> dict:
    """Convert ``model.onnx`` in the working folder; return the result's content."""
    model = onnx.load("model.onnx")
    write_sample_images()
    direct = int(version("onnx2tf").split(".")[0]) >= 2
    lower = lower_directly if direct else lower_with_keras
    if not direct:
        read_resize_as_before()
    names = [dict(zip(own, signature_names(own), strict=True)) for own in graph_names(model)]
    measure = Measure("model.onnx", *names, integer_limits(model))
    best, failure = None, None
    for keep, norms in attempts(model):
        try:
            file = lower(model, keep, norms)
            found = (*measure(file), file)
        except (Exception, SystemExit) as error:  # onnx2tf raises anything and also exits
            traceback.print_exc()
            failure = failure or understood(error, model)
            if failure.kind == "unsupported":
                break
            continue
        if best is None or found[0] > best[0]:
            best = found
        if found[0] >= GOOD_DB:
            break
    if best is None:
        raise failure
    return finish(*best)


def finish(parity: float, inputs: list[dict], outputs: list[dict], file: bytes) -> dict:
    """Write the file and return the result's content; the parent judges the parity."""
    Path("float.tflite").write_bytes(file)
    for item in (*inputs, *outputs):
        if item["perm"] == sorted(item["perm"]):
            item["perm"] = None
    return {"parity_db": round(parity, 2), "inputs": inputs, "outputs": outputs}


def understood(error: BaseException, model: onnx.ModelProto) -> CannotConvert:
    """Find the operator that onnx2tf, TensorFlow or LiteRT complains about."""
    if isinstance(error, CannotConvert):
        return error
    if isinstance(error, LayoutError):
        return CannotConvert(str(error), kind="parity")
    text = f"{type(error).__name__}: {error}"
    node = getattr(error, "onnx_op_name", None) or ""
    if isinstance(error, SystemExit):
        sys.stdout.flush()
        text, node = printed(Path("log").read_text(errors="replace")) or (text, node)
    missing = re.search(r"No module named 'onnx2tf\.ops\.(\w+)'", text)
    flex = re.search(r"(?:TF Select|Custom) ops: ([^\n]+)", text)
    custom = re.search(r"unresolved custom op: (?:ONNX_)?(\w+)", text)
    if missing:
        return CannotConvert(
            "it has no such operator", kind="unsupported", op=missing[1], node=node
        )
    if flex:
        layer = re.search(r'"model(?:_\d+)?/([^/"]+)/', text)
        op, node = origin(layer[1], model) if layer else ("", "")
        reason = f"TensorFlow Lite has no builtin for {flex[1].strip()}"
        return CannotConvert(reason, kind="unsupported", op=op or flex[1].strip(), node=node)
    if custom:
        named = (item for item in model.graph.node if item.op_type.lower() == custom[1].lower())
        node = next(named, onnx.NodeProto(op_type=custom[1]))
        reason = "TensorFlow Lite has no builtin for it"
        return CannotConvert(reason, kind="unsupported", op=node.op_type, node=node.name)
    stated = re.search(r"\bop=(\w+)", text)
    op = stated[1] if stated else origin(node, model)[0]
    return CannotConvert(text, kind="failed", op=op, node=node)


def printed(log: str) -> tuple[str, str] | None:
    """Return the message and the node that onnx2tf printed before it exited, None without one.

    Around it stand the same hints each time, and the end of a traceback.
    """
    lines = re.findall(r"^(?:\x1b\[\d+m)?ERROR:(?:\x1b\[0m)? +(.+)$", log, re.MULTILINE)
    nodes = [line.partition(": ")[2] for line in lines if line.startswith("onnx_op_name: ")]
    own = [line for line in lines if not line.startswith(HINTS)]
    return (own[0], nodes[0] if nodes else "") if own else None


def origin(layer: str, model: onnx.ModelProto) -> tuple[str, str]:
    """Return the operator and the node behind a Keras layer, which bears a node's or output's name.

    onnx2tf names nameless nodes in its working copy.
    """
    output = re.fullmatch(r"edge_out_(\d+)", layer)
    layer = graph_names(model)[1][int(output[1])] if output else layer
    nodes = list(model.graph.node)
    if Path("work.onnx").exists():
        nodes += onnx.load("work.onnx", load_external_data=False).graph.node
    for item in nodes:
        if layer and (item.name == layer or layer in item.output):
            return item.op_type, item.name
    return "", layer


def main() -> int:
    """Convert, write the result; the exit status says whether it worked."""
    die_with_parent()
    try:
        result = {"ok": True, **convert()}
    # The boundary of the process: whatever went wrong has to reach the parent as data.
    except BaseException as error:
        traceback.print_exc()
        kind, op, node = (getattr(error, key, "") for key in ("kind", "op", "node"))
        text = str(error) if kind else f"{type(error).__name__}: {error}"
        result = {"ok": False, "kind": kind or "failed", "op": op, "node": node, "message": text}
    result["versions"] = versions()
    Path("result.part").write_text(json.dumps(result))
    os.replace("result.part", "result.json")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
