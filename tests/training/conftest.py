from __future__ import annotations

import pytest

from torchopt2edge.data.digits import Digits


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits(size=16, test_count=300, calibration_count=32)
