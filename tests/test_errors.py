"""The text of an error, and the name that its hint had in the previous release."""

from __future__ import annotations

import pytest

from torchopt2edge.errors import ConfigError


def test_an_error_says_what_where_and_what_to_type() -> None:
    error = ConfigError("it is no number", artifact="net.yaml", hint="depth=18")
    assert str(error) == "it is no number [net.yaml]. Hint: depth=18"
    assert str(ConfigError("it is no number")) == "it is no number."


def test_the_name_of_the_previous_release_works_and_warns() -> None:
    with pytest.warns(FutureWarning, match=r"EdgeError\.mend is now EdgeError\.hint"):
        error = ConfigError("it is no number", mend="depth=18")  # as in the previous release
    assert error.hint == "depth=18"
    with pytest.warns(FutureWarning, match="until the next release"):
        assert getattr(error, "mend") == "depth=18"  # noqa: B009 (of the previous release)
