"""A page in a real browser, as its tests see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOSTILE = '"><img src=x onerror=document.title="owned"><script>document.title="owned"</script>'


class Visit:
    """An opened page, with its requests and the complaints in its console."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())

    def column(self, at: int) -> list[str]:
        """Return the texts of a column of the result table, top to bottom."""
        cells = self.page.locator(f"#result tbody tr > :nth-child({at + 1}) bdi")
        return list(cells.all_text_contents())

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        size = "document.documentElement"
        return int(self.page.evaluate(f"{size}.scrollWidth - {size}.clientWidth"))

    def texts_outside(self) -> list[str]:
        """Return the texts that leave their drawing, measured with the real font."""
        return list(
            self.page.evaluate(
                """() => [...document.querySelectorAll('svg[role=img] text')]
                    .filter((text) => text.getClientRects().length)
                    .filter((text) => {
                        const a = text.getBoundingClientRect();
                        const b = text.ownerSVGElement.getBoundingClientRect();
                        return a.left < b.left - 1 || a.right > b.right + 1 ||
                            a.top < b.top - 2 || a.bottom > b.bottom + 2;
                    })
                    .map((text) => text.textContent)"""
            )
        )

    def check_access(self) -> None:
        """Fail on what axe finds."""
        pytest.importorskip(
            "axe_playwright_python", reason="tests/report/html/provide.sh brings axe"
        )
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()


Opener = Callable[..., Visit]
