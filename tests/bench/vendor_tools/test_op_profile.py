"""The table of operators, among the other tables that look like it."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchopt2edge.bench.vendor_tools.op_profile import table
from torchopt2edge.errors import BenchError

GPU = (Path(__file__).parent / "captured" / "tflite_profile_gpu.txt").read_text()
TOP = f"{'=' * 30} Top by Computation Time {'=' * 30}\n"
# As posted in tensorflow#25021 (2019): spaces instead of tabs, and no title above the tables.
SPACED = (
    TOP
    + "                     [node type]                  [start]         [first]        [avg ms]"
    "            [%]          [cdf%]          [mem KB]      [times called]  [Name]\n"
    "                 FULLY_CONNECTED                    0.719           0.848           0.849"
    "        53.325%         53.325%             0.000              1       [BiasAdd_1]\n"
    "INFO: a line of another stream\n"
    "               DEPTHWISE_CONV_2D                    0.000           0.802           0.719"
    "        45.131%         98.456%             0.000              1       [Relu6]\n"
)
# The delegate's own table, in the columns of 2024: no [start].
INSIDE = (
    "Operator-wise Profiling Info for Regular Benchmark Runs:\n" + TOP + "\t [node type]\t  [first]"
    "\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]\n"
    "\t TfLiteXNNPackDelegate\t 1.7\t 1.722\t100.000%\t100.000%\t 0.000\t 1\tout:4\n"
    "Number of nodes executed: 1\nDelegate internal: \n" + TOP + "\t [node type]\t  [first]"
    "\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]\n"
    "\t Convolution (NHWC, F32) IGEMM\t 0.6\t 0.631\t 36.636%\t 36.636%\t 0.000\t 1\t"
    "Delegate/Convolution (NHWC, F32) IGEMM:3\n"
)


def test_the_timed_runs_are_read_and_not_the_initialization() -> None:
    row = {"name": "[Identity]:77", "type": "TfLiteGpuDelegateV2", "ms": 8.671, "share": 100.0}
    assert table(GPU) == [row]


def test_columns_go_by_their_heads() -> None:
    first, second = table(SPACED)
    assert first == {"name": "[BiasAdd_1]", "type": "FULLY_CONNECTED", "ms": 0.849, "share": 53.325}
    assert second["type"] == "DEPTHWISE_CONV_2D"


def test_the_inside_of_the_delegate_is_a_table_of_its_own() -> None:
    assert [row["type"] for row in table(INSIDE)] == ["TfLiteXNNPackDelegate"]
    (row,) = table(INSIDE, delegate=True)
    assert (row["type"], row["ms"]) == ("Convolution (NHWC, F32) IGEMM", 0.631)
    assert table(f"INFO: {INSIDE}".replace("\n", "\r\n"), delegate=True) == [row]


@pytest.mark.parametrize(
    "text",
    [
        "",
        GPU.partition("Operator-wise")[0],
        GPU.partition("Operator-wise")[0] + "Operator-wise Profiling Info for Regular Runs:\n",
        TOP,
    ],
)
def test_no_table_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match=r"of the timed runs.*enable_op_profiling"):
        table(text)


def test_no_inside_is_refused() -> None:
    with pytest.raises(BenchError, match="inside the delegate"):
        table(GPU, delegate=True)
