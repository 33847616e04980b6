"""The commands, as typed: exit codes, messages, files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.terminal import child_on_a_terminal
from torchopt2edge.cli.console import never_fail
from torchopt2edge.cli.main import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command writes under the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A float ONNX: one convolution, a ReLU, a global pool."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    return path


def test_bench_writes_the_run_and_report_renders_it_again(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", f"artifacts=[{net}]", "timing=smoke", "out=out"]) == 0
    rows = [json.loads(line) for line in Path("out/rows.jsonl").read_text().splitlines()]
    assert [row["candidate"] for row in rows] == ["net-ort-fp32"]
    assert rows[0]["err"] is None
    assert rows[0]["facts"]["checked"] == "against itself"
    assert json.loads(Path("out/verdict.json").read_text())["schema"] == 1
    assert {"report.md", "figures", "config.yaml", "run.log"} <= set(os.listdir("out"))
    before = Path("out/report.md").read_text()
    Path("out/report.md").unlink()
    assert main(["report", "run=out"]) == 0
    assert Path("out/report.md").read_text() == before
    assert "net-ort-fp32" in capsys.readouterr().out


def test_several_files_run_in_turns_and_a_broken_one_is_a_row(net: Path) -> None:
    broken, twin = net.with_name("broken.tflite"), net.with_name("twin.onnx")
    broken.write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 400)
    twin.write_bytes(net.read_bytes())
    files = f"artifacts=[{net},{broken},{twin}]"
    assert main(["bench", files, "timing=smoke", "out=out"]) == 0
    rows = {
        row["candidate"]: row
        for row in map(json.loads, Path("out/rows.jsonl").read_text().splitlines())
    }
    assert rows["broken-litert-unknown"]["err"]
    assert rows["net-ort-fp32"]["facts"]["run"] == rows["twin-ort-fp32"]["facts"]["run"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "timng=smoke"], "Did you mean 'timing'?"),
        (["bench", "timing=smok"], "Available options in 'timing'"),
        (["bench", "device.thread=2"], "Did you mean 'device.threads'?"),
        (["bench", "timing=smok"], "Did you mean 'smoke'?"),
        (["optimize", "stage=[teacher,studnet]"], "Did you mean 'student'?"),
        (["optimize", "data=null"], "leaves it out: data=null"),
        (["compare", "+quantise.max_drop=1"], "Did you mean 'quantize.max_drop'?"),
        (["compare", "+quantize={max_drp: 1}"], "Did you mean 'quantize.max_drop'?"),
        (["optimize", "+stage.student.epoch=3"], "Did you mean 'stage.student.epochs'?"),
        (["optimize", "+stage.teacher.model.dept=8"], "Did you mean 'stage.teacher.model.depth'?"),
        (["optimize", "+stage.pruned.schedule.until=1"], "It takes begin."),
        (["compare", "data=digits", "data.see=1"], "Did you mean 'data.seed'?"),
        (["compare", "data.root=photos"], "data=OPTION, of arrays, cifar10_npz"),
        (["compare", "+model.width=2"], "There is no key 'model.width'"),
        (["quantize", "bench.profile=true"], "These commands have it: optimize, compare, bench"),
        (["optimize", "+model=resnet8"], "These commands have it: compare, quantize"),
        (["optimize", "stage.qat.epochs=1"], "'stage=[teacher,student,pruned,qat]'"),
        (["optimize", "ship=${width}"], "Interpolation key 'width' not found"),
        (["bench", "-m", "+foo=1,2"], "--cfg prints those there are"),
        (["bench", "-m", "protocl=smoke,quick"], "Did you mean 'timing'?"),
        (["bench", "-m", "timing=quick,smok"], "Did you mean 'smoke'?"),
        (["bench", "artifacts=[a"], "no viable alternative"),
        (["compare", "model.path=größe (1).onnx"], """'model.path="größe (1).onnx"'"""),
        (["bench", "artifacts=[ä.onnx,b.tflite]"], """'artifacts=["ä.onnx","b.tflite"]'"""),
        (["bench", "timing"], "An override is KEY=VALUE"),
        (["bench", "device.threads=1,2"], "-m tries each"),
        (["bench", "+device.threads=1"], "leave the plus out"),
        (["bench", "~device.nothing"], "there is no such key"),
        (["bench", "devices@bench=local"], "Did you mean 'device'?"),
        (["report"], "run"),
    ],
)
def test_a_wrong_override_is_exit_2_with_the_nearest_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert "hydra" not in err
    assert "To append" not in err
    if "--cfg" not in arguments and "-m" not in arguments and arguments != ["report"]:
        assert main([*arguments, "--cfg"]) == 2, "what --cfg prints can be run"


@pytest.mark.parametrize(
    "given",
    [
        ["optimize", "+stage.pruned.ratios.conv1=0.5"],
        ["optimize", "+stage.mine._target_=mine.Stage", "+stage.mine.width=3"],
        ["optimize", "+model@stage.teacher.model=resnet8"],
        ["compare", "model._target_=torch.nn.Linear", "+model.in_features=4"],
        ["compare", "model._target_=mine.net", "+model.anything=4"],
        ["optimize", "+hydra.job.name=mine"],
        ["optimize", "--config-dir=own", "experiment=own", "+width=8"],
        ["optimize", "--config-dir=own", "experiment=own", "++width=8", "notes=two"],
        ["optimize", "--config-dir=own", "experiment=own", "+width=8", "+own=one", "+own.more=2"],
    ],
)
def test_a_key_that_something_reads_is_taken(given: list[str]) -> None:
    """A field of a ``_target_``, what an interpolation names, the user's own groups and keys."""
    for name, text in {
        "experiment/own": "# @package _global_\nnotes: one\nstage: {teacher: {epochs: '${width}'}}",
        "own/one": "less: 1",
    }.items():
        path = Path("own", f"{name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert main([*given, "--cfg"]) == 0


def test_a_plus_is_asked_for_where_it_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "model._target_=torch.nn.Linear", "model.in_features=4"]) == 2
    assert "use +model.in_features=4" in capsys.readouterr().err


def test_a_field_that_a_yaml_of_ones_own_misnames_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is made, though a model is called only when its stage runs."""
    Path("own/stage").mkdir(parents=True)
    net = "{_target_: torchopt2edge.models.cifar_resnet.cifar_resnet, _partial_: true, dept: 8}"
    train = f"_target_: torchopt2edge.stages.train.Train, data: '${{data}}', model: {net}"
    Path("own/stage/own.yaml").write_text(f"own: {{{train}}}")
    given = ["optimize", "--config-dir=own", "stage=[own]", "ship=[own]", "out=out"]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert "stage.own.model.dept is no field of cifar_resnet" in said
    assert "Hint: stage.own.model.depth" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimize", "stage.student.epochs=abc"], "takes a whole number"),
        (["optimize", "stage.student.epochs="], "stage.student.epochs is ''"),
        (["optimize", "stage.teacher.epochs=2.5"], "takes a whole number"),
        (["optimize", "stage.teacher.model.depth=deep"], "stage.teacher.model.depth is 'deep'"),
        (["optimize", "constraints.max_size_mb=ten"], "takes a number, or null"),
        (["optimize", "calibration_samples=many"], "takes a whole number"),
        (["optimize", "baseline=perhaps"], "takes true or false"),
        (["optimize", "stage.student.optimizer=adam"], "takes one of sgd, adamw"),
        (["optimize", "stage.student.milestones=[0.5,x]"], "each is a number"),
        (["compare", "model=resnet8", "model.depth=deep"], "model.depth is 'deep'"),
        (["compare", "model=resnet8", "checkpoint=none.pth"], "there is no such file [none.pth]"),
        (["optimize", "stage=[]"], "nothing is chosen for 'stage'"),
        (["compare", "schemes=int9"], "there is no scheme 'int9'"),
        (["bench", "artifacts=[a.onnx]", "bench.threads=two"], "each is a whole number"),
        (["bench", "artifacts=[a.onnx]", "device.threads=two"], "device.threads is 'two'"),
        (["bench", "artifacts=[a.onnx]", "out=/dev/null/run"], "the run's folder cannot be"),
        (["bench", "-m", "--cfg", "timing=quick,smoke"], "leave -m out"),
        (["bench"], "there are no files"),
        (["bench", "artifacts=[net.pb]"], "no backend opens .pb"),
        (["report", "run=nowhere"], "nowhere"),
        (["compare"], "there is no model"),
        (["compare", "model.path=none.onnx"], "there is no such file [none.onnx]"),
        (["compare", "model._target_=nopkg.net"], "No module named 'nopkg'"),
        (
            [
                "optimize",
                "stage.student.loss=[{_target_: torchopt2edge.compression.distillation.terms.KD,"
                " t: 2}]",
            ],
            "stage.student.loss[0].t is no field of KD",
        ),
        (["optimize", "stage=[pruned]", "ship=[pruned]"], "needs a stage 'student'"),
        (["optimize", "ship=[nothing]"], "ship one of teacher"),
        (["bench", "artifacts=[net.onnx]", "device.threads=0"], "threads"),
    ],
)
def test_an_error_of_ours_is_one_paragraph_and_exit_1(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "Hint" in err
    assert "Traceback" not in err


def test_a_missing_run_is_told_without_the_insides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert capsys.readouterr().err.strip() == "Missing mandatory value: run"


def test_debug_shows_where(net: Path) -> None:
    from torchopt2edge.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["bench", "--debug"])


@pytest.mark.parametrize("command", ["optimize", "compare", "bench", "report", "doctor"])
def test_help_speaks_of_the_command_not_of_hydra(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    said = capsys.readouterr().out
    assert f"torchopt2edge {command}" in said
    assert "hydra.run" not in said


def test_no_line_of_a_help_is_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_lone_file_is_a_list_of_one(net: Path) -> None:
    assert main(["bench", f"artifacts={net.name}", "timing=smoke", "out=out"]) == 0
    assert len(Path("out/rows.jsonl").read_text().splitlines()) == 1


def test_a_stream_without_the_signs_gets_question_marks() -> None:
    kept = io.BytesIO()
    stream = io.TextIOWrapper(kept, "ascii", write_through=True)
    never_fail(stream)
    stream.write("Δ points")
    assert kept.getvalue() == b"? points"


def test_floats_alone_are_not_checked_on_what_they_are_scored_on(net: Path) -> None:
    """The example inputs of a module were test images once, and its own check refused them."""
    words = ["model=resnet8", "data=digits", "schemes=fp32", "backend=[ort]", "baseline=false"]
    assert main(["quantize", *words, "out=out"]) == 0
    (row,) = map(json.loads, Path("out/rows.jsonl").read_text().splitlines())
    assert row["err"] is None
    assert "top1" in row["metrics"]


def test_cfg_prints_the_resolved_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", "--cfg", "seed=3"]) == 0
    said = capsys.readouterr().out
    assert "seed: 3" in said
    assert "${" not in said


def test_a_sweep_runs_every_job_and_shows_one_table(net: Path) -> None:
    """In a process of its own: Hydra's launcher sets up logging anew for the whole process."""
    sweep = ["bench", f"artifacts=[{net}]", "timing=smoke", "device.threads=1,0", "-m"]
    command = [sys.executable, "-m", "torchopt2edge", *sweep]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (kept,) = Path("outputs").glob("sweep-*/sweep.json")
    first, second = json.loads(kept.read_text())
    row = json.loads((Path(first["folder"]) / "rows.jsonl").read_text())
    assert row["err"] is None  # on a busy machine the run may be invalid, and then has no pick
    assert first.get("pick", "net-ort-fp32") == "net-ort-fp32"
    assert "threads" in second["err"]  # no session has 0 of them
    assert "rows.jsonl" not in second["err"], "the job's own error, and not what it left"
    assert "device.threads=1" in done.stdout


def test_a_sweep_that_cannot_be_written_is_an_error_of_ours() -> None:
    """In a process of its own, as above."""
    command = [sys.executable, "-m", "torchopt2edge", "bench", "-m"]
    done = subprocess.run(
        [*command, "hydra.sweep.dir=/dev/null/sweep"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "hydra.sweep.dir=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt_is_exit_130_and_leaves_nobody(net: Path) -> None:
    """A real Ctrl-C in the middle of measuring: once the progress bar says that a round is done."""
    import signal

    import psutil

    plan = ["timing.min_seconds=600", "timing.rounds=2000", "timing.warmup_max_s=0.1"]
    command = [sys.executable, "-m", "torchopt2edge", "bench", f"artifacts=[{net}]", *plan]
    with child_on_a_terminal([*command, "out=out"]) as (child, terminal):
        shown = terminal.read_until(r"round ([2-9]|\d\d)")
        kids = psutil.Process(child.pid).children(recursive=True)
        assert kids, shown
        child.send_signal(signal.SIGINT)
        shown = terminal.read_until("interrupted; what was measured until then: out/report.html")
        assert child.wait() == 130, shown
    assert not psutil.wait_procs(kids, timeout=10)[1]
    (row,) = [json.loads(line) for line in Path("out/rows.jsonl").read_text().splitlines()]
    assert row["facts"]["interrupted"]
    assert row["latency_ns"]
    assert json.loads(Path("out/verdict.json").read_text())["winner"] is None
    assert Path("out/report.html").is_file()


def test_bench_tries_settings_and_looks_inside_with_either_runner(net: Path) -> None:
    given = ["bench", f"artifacts=[{net}]", "timing=smoke", "bench.threads=[1,2]"]
    for runner in ("python", "native"):
        assert main([*given, "bench.profile=true", f"device.runner={runner}", f"out={runner}"]) == 0
        lines = Path(f"{runner}/rows.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["candidate"] for row in rows] == ["net-ort-fp32@1t", "net-ort-fp32@2t"]
        for threads, row in enumerate(rows, 1):
            facts = row["facts"]
            assert row["err"] is None
            assert facts["runner"] == runner
            assert facts["threads"] == threads
            assert facts["placement"]["nodes"] == 100.0
            assert {op["type"] for op in facts["profile"]} & {"Conv", "FusedConv"}
            assert facts["cpu"] != ""
    native, python = (
        json.loads(Path(f"{runner}/rows.jsonl").read_text().splitlines()[0])["metrics"]
        for runner in ("native", "python")
    )
    assert native["memory_mb"] < python["memory_mb"]
    assert "import_ms" not in native
    assert native["library_ms"] > 0.0


def test_a_wrong_setting_is_one_paragraph(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"artifacts=[{net}]", "bench.threads=[0]", "out=o"]) == 1
    assert "bench.threads=[1,2,4]" in capsys.readouterr().err
    assert main(["bench", f"artifacts=[{net}]", "device.runner=java", "out=o"]) == 1
    assert "python or native" in capsys.readouterr().err


def test_a_second_run_is_held_against_the_first(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("before", "after"):
        assert main(["bench", f"artifacts=[{net}]", "timing=smoke", f"out={name}"]) == 0
        rows = Path(name) / "rows.jsonl"  # a busy machine's flags are not what this is about
        calm = json.loads(rows.read_text())
        calm["facts"]["flags"] = []
        rows.write_text(json.dumps(calm) + "\n")
    given = ["report", "run=before", "run=after", "out=diff"]
    assert main([*given, "report.max_regression=1000%"]) == 0
    assert {"against.html", "against.md", "against.json"} <= set(os.listdir("diff"))
    assert "net-ort-fp32" in capsys.readouterr().out
    assert json.loads(Path("diff/against.json").read_text())["titles"] == ["before", "after"]
    slow = json.loads(rows.read_text())
    slow["latency_ns"] = [[3 * one for one in each] for each in slow["latency_ns"]]
    slow["metrics"]["latency_ms"] *= 3
    slow["facts"]["digest"] = slow["facts"]["file_sha256"] = "another"
    rows.write_text(json.dumps(slow) + "\n")
    assert main([*given, "report.max_regression=5%"]) == 1
    assert main([*given, "report.max_regression=five"]) == 1
    assert "five" in capsys.readouterr().err
    assert main(["report", "run=before", "run=after", "run=third"]) == 1
