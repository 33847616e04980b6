from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from torchopt2edge.cli import doctor
from torchopt2edge.cli.doctor import Check


def test_python() -> None:
    assert doctor.check_python((3, 11, 7)).status == "ok"
    old = doctor.check_python((3, 10, 14))
    assert (old.status, old.what) == ("fail", "3.10.14 is too old")
    assert "3.11" in old.hint


def test_requirements_present_absent_and_too_old() -> None:
    requires = [
        "numpy>=2.0",
        "torch-pruning>=1.6",
        "onnx>=1.18",
        'mypy>=1.15; extra == "dev"',
        'never>=1; python_version < "3"',
    ]
    have = {"numpy": "2.4.6", "torch-pruning": "1.5.9"}
    sound, old, absent = doctor.check_requirements(requires, have)
    assert sound == Check("dependencies", "ok", "numpy 2.4.6")
    assert (old.name, old.status, old.what) == ("torch-pruning", "fail", "1.5.9 is not >=1.6")
    assert old.hint == 'pip install "torch-pruning>=1.6"'
    assert (absent.name, absent.status) == ("onnx", "fail")
    assert absent.hint == 'pip install "onnx>=1.18"'


def test_local_builds_and_previews_satisfy_a_requirement() -> None:
    have = {"torch": "2.14.1+cpu", "timm": "1.1.0.dev0"}
    (sound,) = doctor.check_requirements(["torch>=2.9", "timm>=1.0.15"], have)
    assert sound.status == "ok"


def test_a_package_that_was_not_installed_has_unknown_needs() -> None:
    (only,) = doctor.check_requirements(None, {})
    assert only.status == "warn"
    assert "pip install" in only.hint


def test_another_build_of_onnxruntime_answers_for_it() -> None:
    (only,) = doctor.check_requirements(["onnxruntime>=1.23"], {"onnxruntime-gpu": "1.31.1"})
    assert only.status == "warn"
    assert only.hint == 'pip uninstall -y onnxruntime-gpu && pip install "onnxruntime>=1.23"'


def test_a_mismatched_pair_is_told_before_it_is_imported() -> None:
    def never() -> str | None:
        raise AssertionError("the pair is known to be wrong")

    have = {"torch": "2.14.1", "torchvision": "0.28.0"}
    found = doctor.check_vision(have, "2.13.0", never)
    assert found.status == "fail"
    assert "torchvision 0.28.0, which was built for torch 2.13.0" in found.what
    assert found.hint == ('pip install --force-reinstall "torch==2.14.1" "torchvision==0.29.1"')


def test_equal_numbers_from_two_indexes_are_found_by_importing() -> None:
    have = {"torch": "2.14.1+cpu", "torchvision": "0.29.1"}
    error = "RuntimeError: operator torchvision::nms does not exist"
    found = doctor.check_vision(have, "2.14.1", lambda: error)
    assert found.status == "fail"
    assert error in found.what
    assert '"torch==2.14.1" "torchvision==0.29.1"' in found.hint


def test_a_sound_pair_and_an_absent_one() -> None:
    have = {"torch": "2.14.1", "torchvision": "0.29.1"}
    assert doctor.check_vision(have, "2.14.1", lambda: None).status == "ok"
    assert doctor.check_vision(have, None, lambda: None).status == "ok"
    absent = doctor.check_vision({"torch": "2.9.0"}, None, lambda: None)
    assert absent.status == "fail"
    assert '"torchvision==0.24.0"' in absent.hint


def test_the_probe_reports_what_a_broken_torchvision_raises(tmp_path, monkeypatch) -> None:
    (tmp_path / "torch.py").write_text("")
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.probe_vision() == "RuntimeError: operator torchvision::nms does not exist"


def test_two_builds_of_onnxruntime_are_a_conflict() -> None:
    both = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1", "onnxruntime-tools": "1.0"}
    found = doctor.check_onnxruntime(both)
    assert found.status == "fail"
    assert found.hint == (
        'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "onnxruntime==1.31.1"'
    )
    assert doctor.check_onnxruntime({"onnxruntime": "1.31.1"}).status == "ok"
    assert doctor.check_onnxruntime({}).status == "ok"


def test_tensorflow_here_is_not_needed() -> None:
    found = doctor.check_foreign({"tensorflow": "2.19.0", "onnx2tf": "1.29.24", "torch": "2.14.1"})
    assert found.status == "warn"
    assert found.hint.startswith("pip uninstall -y onnx2tf tensorflow ")
    assert doctor.check_foreign({"torch": "2.14.1"}).status == "ok"


def test_a_converter_that_is_not_built_says_how_to_build_it(tmp_path) -> None:
    found = doctor.check_converter(tmp_path)
    assert found.status == "warn"
    assert found.hint == "torchopt2edge converter install"


@pytest.fixture
def fake_converter(tmp_path: Path) -> Path:
    """A cache with a converter environment whose interpreter is a script of ours."""
    from torchopt2edge.converter.environment import MARKER, folder_for, requirements_for

    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = folder_for(requirements_for(minor), minor, tmp_path)
    (folder / "bin").mkdir(parents=True)
    (folder / MARKER).write_text(json.dumps({"folder": str(folder)}))
    return folder / "bin" / "python"


def test_a_converter_that_stands_says_what_is_in_it(fake_converter, tmp_path) -> None:
    fake_converter.write_text('#!/bin/sh\necho \'{"python": "3.11.7", "onnx2tf": "1.29.24"}\'\n')
    fake_converter.chmod(0o755)
    assert doctor.check_converter(tmp_path) == Check(
        "converter", "ok", "python 3.11.7, onnx2tf 1.29.24"
    )


def test_a_converter_that_fell_apart_is_a_failure(fake_converter, tmp_path) -> None:
    fake_converter.write_text("#!/bin/sh\necho 'No module named encodings' >&2\nexit 1\n")
    fake_converter.chmod(0o755)
    found = doctor.check_converter(tmp_path)
    assert found.status == "fail"


@pytest.mark.parametrize(
    ("flags", "status", "word"),
    [
        (["avx2", "avx512_vnni"], "ok", "u8 activations and s8"),
        (["avx2", "avx_vnni"], "ok", "u8 activations and s8"),
        (["asimd", "asimddp"], "ok", "s8 activations and s8"),
        (["avx2", "fma"], "warn", "saturate"),
        ([], "warn", "no int8 dot product"),
    ],
)
def test_the_processor_decides_how_to_quantize(flags: list[str], status: str, word: str) -> None:
    found = doctor.check_cpu("some CPU", flags)
    assert found.status == status
    assert word in found.what
    assert bool(found.hint) == (status != "ok")


def test_a_cache_that_is_not_there_yet_is_judged_by_its_parent(tmp_path) -> None:
    place = tmp_path / "a" / "b"
    assert doctor.existing_parent(place) == tmp_path
    assert doctor.check_writable(place).status == "ok"
    assert not place.exists()


def test_a_file_where_the_cache_should_be(tmp_path) -> None:
    (tmp_path / "cache").write_text("")
    found = doctor.check_writable(tmp_path / "cache" / "store")
    assert found.status == "fail"
    assert "TORCHOPT2EDGE_CACHE" in found.hint


def test_space() -> None:
    place = Path("cache")
    assert doctor.check_space(place, 50e9).status == "ok"
    assert doctor.check_space(place, 3e9).status == "warn"
    full = doctor.check_space(place, 2e8)
    assert (full.status, full.what) == ("fail", "0.2 GB free for cache")
    assert full.hint


def test_the_worst_of_all() -> None:
    ok, warn, fail = (Check("x", status, "y") for status in ("ok", "warn", "fail"))
    assert doctor.worst([]) == "ok"
    assert doctor.worst([ok, warn, ok]) == "warn"
    assert doctor.worst([fail, warn, ok]) == "fail"


def rendered(checks: list[Check], width: int = 60) -> str:
    out = io.StringIO()
    doctor.render(Console(file=out, width=width), checks)
    return out.getvalue()


def test_a_command_can_be_copied_whole_from_a_narrow_terminal() -> None:
    hint = 'pip install --force-reinstall "torch==2.14.1" "torchvision==0.29.1" [all]'
    text = rendered([Check("torchvision", "fail", "[red]broken[/red]", hint)])
    assert f"→ {hint}\n" in text
    assert "✗ fail  torchvision  [red]broken[/red]\n" in text
    assert text.endswith("1 to fix.\n")


def test_what_is_sound_is_said_in_one_line_each() -> None:
    text = rendered([Check("python", "ok", "3.11.7"), Check("cache", "ok", "fine")])
    assert text == "✓ ok    python  3.11.7\n✓ ok    cache   fine\nNo problem was found.\n"
    assert rendered([Check("cpu", "warn", "slow", "x")]).endswith("1 warning.\n")


def test_this_machine_can_be_examined(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path))
    checks = {check.name: check for check in doctor.examine()}
    for name in ("python", "dependencies", "torchvision", "onnxruntime", "cache"):
        assert checks[name].status == "ok", checks[name]
    assert checks["converter"].status == "warn", "the cache is empty"
    assert str(tmp_path) in checks["space"].what
    have = doctor.installed()
    assert f"torch {have['torch']}" in checks["dependencies"].what
    assert os.fspath(tmp_path) in checks["cache"].what
