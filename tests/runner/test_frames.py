"""Frames over a real pipe."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.hostile import EXAMPLES, damaged, mutated
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner import frames
from torchopt2edge.runner.frames import FrameBuffer, FrameReader, encode

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass  # the test closed it


@given(
    arrays=st.dictionaries(
        st.text(max_size=8),
        hnp.arrays(
            st.sampled_from(["<f4", ">f4", "<i8", "|u1", "|b1", "<f2", ">i2"]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        max_size=3,
    ),
    header=st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.none(), max_size=3),
)
def test_what_goes_in_comes_out(arrays: dict[str, np.ndarray], header: dict[str, object]) -> None:
    header.pop("arrays", None)
    near, far = os.pipe()
    try:
        os.write(far, encode(header, arrays))
        got, found = FrameReader(near).read(5.0)
    finally:
        os.close(near)
        os.close(far)
    assert got == header
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("=")


def test_strides_do_not_leak_onto_the_wire(pipe: Pipe) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    os.write(pipe[1], encode({}, {"a": array}))
    found = FrameReader(pipe[0]).read(5.0)[1]["a"]
    np.testing.assert_array_equal(found, array)
    found[0, 0, 0] = -1.0  # ours to write to


def test_frames_arrive_in_pieces_and_in_heaps(pipe: Pipe) -> None:
    big = np.arange(300_000, dtype=np.float64)
    data = encode({"n": 1}, {"big": big}) + encode({"n": 2}) + encode({"n": 3}, {})

    def write() -> None:
        for at in range(0, len(data), 50_001):
            os.write(pipe[1], data[at : at + 50_001])

    writer = threading.Thread(target=write)
    writer.start()
    reader = FrameReader(pipe[0])
    header, arrays = reader.read()
    np.testing.assert_array_equal(arrays["big"], big)
    assert [header["n"], reader.read()[0]["n"], reader.read(1.0)[0]["n"]] == [1, 2, 3]
    writer.join()


def test_a_timeout_loses_nothing(pipe: Pipe) -> None:
    data = encode({"cmd": "x"}, {"a": np.arange(5)})
    reader = FrameReader(pipe[0])
    os.write(pipe[1], data[:-3])
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        reader.read(0.05)
    assert time.monotonic() - begin >= 0.05
    os.write(pipe[1], data[-3:])
    assert reader.read(5.0)[1]["a"].tolist() == [0, 1, 2, 3, 4]


def test_the_end_of_the_stream_is_not_a_frame(pipe: Pipe) -> None:
    os.write(pipe[1], b'{"half": ')
    os.close(pipe[1])
    with pytest.raises(EOFError):
        FrameReader(pipe[0]).read(5.0)


@pytest.mark.parametrize("noise", [b"INFO: Created delegate\n", b"[1, 2]\n", b"\xff\xfe\n"])
def test_noise_is_named_as_such(pipe: Pipe, noise: bytes) -> None:
    os.write(pipe[1], noise)
    with pytest.raises(DeviceError, match="not made of frames"):
        FrameReader(pipe[0]).read(5.0)


def test_a_line_that_is_no_header_is_read_past(pipe: Pipe) -> None:
    os.write(pipe[1], b"noise\n" + b"[" * 20_000 + b"]" * 20_000 + b"\n" + encode({"n": 1}))
    reader = FrameReader(pipe[0])
    for _ in range(2):
        with pytest.raises(DeviceError, match="not made of frames"):
            reader.read(5.0)
    assert reader.read(5.0)[0] == {"n": 1}


@pytest.mark.parametrize(
    "given",
    [
        "x", 5, [5], [{"dtype": "int8", "shape": [1]}], [{"name": "a", "shape": [1]}],
        [{"name": "a", "dtype": "int8"}], [{"name": 1, "dtype": "int8", "shape": [1]}],
        [{"name": "a", "dtype": "foo", "shape": [1]}],
        [{"name": "a", "dtype": "object", "shape": [1]}],
        [{"name": "a", "dtype": None, "shape": [1]}], [{"name": "a", "dtype": "S4", "shape": [1]}],
        *({"name": "a", "dtype": "int8", "shape": shape}
          for shape in (1, ["1"], [-1], [0.5], [True], [1] * 33, [0, 1 << 62], [0, 1 << 30, 9])),
        [{"name": "a", "dtype": "int8", "shape": [1]}] * 2, [{}] * 2000, {"name": "a"},
        [{"name": "a", "dtype": "(2,", "shape": [1]}],
    ],
    ids=str,
)  # fmt: skip
def test_arrays_that_are_none_end_the_stream(pipe: Pipe, given: object) -> None:
    header = {"cmd": "x", "arrays": [given] if isinstance(given, dict) else given}
    os.write(pipe[1], json.dumps(header).encode() + b"\n" + bytes(8) + encode({"n": 1}))
    reader = FrameReader(pipe[0])
    with pytest.raises(DeviceError, match="announces an array that is none"):
        reader.read(5.0)
    with pytest.raises(EOFError):
        reader.read(5.0)


@pytest.mark.parametrize("values", [[None], ["a", "b"], [b"x"], ["2026-01-01"]], ids=str)
def test_what_is_no_number_cannot_be_sent(values: list[object]) -> None:
    array = np.array(values, "M8[D]" if values == ["2026-01-01"] else None)
    with pytest.raises(DeviceError, match="only numbers and bools"):
        encode({}, {"a": array})


def held(data: bytes, size: int = 1 << 20) -> list[frames.Frame]:
    """Feed a buffer piece by piece, and return the frames that are whole."""
    buffer, found = FrameBuffer(), []
    for at in range(0, len(data), size):
        buffer.feed(data[at : at + size])
        while (one := buffer.next()) is not None:
            found.append(one)
    return found


def test_a_bool_is_true_where_any_bit_of_it_is_set() -> None:
    spec = {"arrays": [{"name": "a", "dtype": "bool", "shape": [3]}]}
    ((_, arrays),) = held(json.dumps(spec).encode() + b"\n" + bytes([0, 1, 7]))
    assert arrays["a"].view("u1").tolist() == [0, 1, 1]


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LONGEST_LINE", 1000)
    for line in (b"x" * 1001, b"x" * 2000 + b"\n"):
        with pytest.raises(DeviceError, match=r"a line of more than 1000 bytes"):
            held(line)
    assert held(b'{"a": "' + b"x" * 980 + b'"}\n')


@pytest.mark.parametrize("line", [b"[]," * 200_000, b'"",' * 600_000], ids=["lists", "texts"])
def test_a_header_that_would_take_far_more_memory_than_its_bytes_is_refused(line: bytes) -> None:
    with pytest.raises(DeviceError, match="a header of"):
        held(b'{"a": [' + line + b"0]}\n")


def test_arrays_that_are_too_large_are_refused_before_they_come() -> None:
    specs = [{"name": name, "dtype": "float64", "shape": [1 << 14, 1 << 12]} for name in "abc"]
    with pytest.raises(DeviceError, match="arrays of more than 1024 MB"):
        held(json.dumps({"arrays": specs}).encode() + b"\n")


GENUINE = {"event": "called", "arrays": [{"name": "y", "dtype": "float32", "shape": [2, 3]}]}


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(
    data=damaged(encode(GENUINE | {"arrays": None}, {"y": np.ones((2, 3), np.float32)}) * 2)
    | mutated(GENUINE).map(lambda one: json.dumps(one).encode() + b"\n" + bytes(24)),
    size=st.sampled_from([1, 7, 1 << 20]),
)
def test_damaged_frames_are_read_or_refused(data: bytes, size: int) -> None:
    try:
        for header, arrays in held(data, size):
            assert isinstance(header, dict)
            assert all(array.flags.writeable for array in arrays.values())
    except (DeviceError, EOFError):
        pass
