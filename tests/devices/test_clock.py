"""Nothing here goes by the calendar: it is wrong on a board without a battery, and may jump."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

PACKAGE = Path(str(resources.files("torchopt2edge")))
# What runs on a device, or measures: of Python, of a page, of C and of the shells.
FILES = sorted(
    path
    for folder in ("bench", "deploy", "devices", "runner")
    for kind in ("py", "mjs", "c", "h")
    for path in (PACKAGE / folder).rglob(f"*.{kind}")
)
CALENDAR = re.compile(
    r"time\.time(_ns)?\(|datetime|Date\.now|new Date|timeOrigin|CLOCK_REALTIME|gettimeofday|"
    r"\$\(date|`date|^\s*date |-newer|\s-[no]t\s|-mtime|-mmin",
    re.MULTILINE,
)


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_time_is_the_calendars(file: Path) -> None:
    found = CALENDAR.search(file.read_text())
    assert found is None, found


def test_there_is_something_to_look_at() -> None:
    assert {".py", ".mjs", ".c"} <= {file.suffix for file in FILES}
