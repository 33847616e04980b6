"""Every data set that a yaml names says how its samples are made of raw images."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from torchopt2edge.data import DataSet

CONF = sorted((Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))


def data_set(path: Path) -> DataSet:
    """Build it as its yaml says; nothing is read yet."""
    node = dict(yaml.safe_load(path.read_text()))
    home, _, name = node.pop("_target_").rpartition(".")
    made: DataSet = getattr(importlib.import_module(home), name)(**node)
    return made


@pytest.mark.parametrize("path", CONF, ids=lambda path: path.stem)
def test_it_makes_what_the_data_set_declares(path: Path) -> None:
    data = data_set(path)
    if data.preprocess is None:
        assert path.stem == "arrays", "what is preprocessed already"
        return
    raw = np.zeros((*data.input_shape[1:], data.input_shape[0]), np.uint8)
    assert data.preprocess(raw).shape == (1, *data.input_shape)
    assert data.preprocess.channels in (None, data.input_shape[0])
    assert data.preprocess.size in (None, data.input_shape[1:])
