"""How LiteRT runs a .tflite, told as JSON on stdout; in a process of its own, for it may die of it.

XNNPACK frees twice what it made of some files (scales beyond its reach, ai-edge-litert 2.3), and
that would end the whole run. Executed by its path, with nothing of the package to import.

    python litert_look.py FILE
"""

from __future__ import annotations

import json
import sys
from typing import Any


def look(file: str) -> dict[str, Any]:
    """Load the file as LiteRT does by default; return its plan's nodes and its outputs.

    The Python API has no public call for the plan (``_get_ops_details``, ai-edge-litert 2.3).
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file, num_threads=1)
    interpreter.allocate_tensors()
    nodes = [
        {
            "index": int(node["index"]),
            "kind": str(node["op_name"]),
            "inputs": [int(one) for one in node["inputs"]],
            "outputs": [int(one) for one in node["outputs"]],
        }
        for node in interpreter._get_ops_details()
    ]
    outputs = [int(detail["index"]) for detail in interpreter.get_output_details()]
    return {"nodes": nodes, "outputs": outputs}


if __name__ == "__main__":
    try:
        json.dump(look(sys.argv[1]), sys.stdout)
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
