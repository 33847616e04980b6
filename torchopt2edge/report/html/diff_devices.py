"""``against.html`` above several devices: a comparison of two runs on all of them."""

from __future__ import annotations

from collections.abc import Mapping

from torchopt2edge.report.diff import text as diff_text
from torchopt2edge.report.diff.devices import DevicesDiff
from torchopt2edge.report.diff.devices_text import (
    LIMITS,
    device_cells,
    headline,
    other_not_compared,
    ratio,
)
from torchopt2edge.report.diff.text import PAGE
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.html.blocks import Cell, Paragraph, Section, Table, item_list, section
from torchopt2edge.report.html.device_columns import device_columns, devices_section
from torchopt2edge.report.html.diff import STRICT
from torchopt2edge.report.html.template import fill


def render_html(diff: DevicesDiff, figures: Mapping[str, Figure]) -> str:
    """Return the page.

    Args:
        diff: The comparison.
        figures: Its figures by their keys.

    Returns:
        The HTML; equal input gives equal text.
    """
    return fill(
        headline(diff),
        title=diff_text.heading(diff.titles),
        sections=_sections(diff, figures),
        footer="The comparison as data is in `against.json`, beside this file.",
        kind="comparison",
    )


def _sections(diff: DevicesDiff, figures: Mapping[str, Figure]) -> list[Section | None]:
    strict = Paragraph(STRICT) if diff.strict else None
    pages = {device.device: f"{device.folder}/{PAGE}" for device, _ in diff.compared}
    return [
        section("broken", "Beyond the limit", [item_list(diff.broken)]),
        section("strict", "Inconclusive", [strict, item_list(diff.strict)]),
        section("not-compared", "Not compared", [item_list(other_not_compared(diff))]),
        section("warnings", "Warnings", [item_list(diff.warnings)]),
        section("result", "Before and after", [_table(diff)]),
        section("latency", "Latency, after over before", list(figures.values())),
        devices_section(
            device_cells(diff), "What changed on each device", "The comparison of each", pages
        ),
        section("limits", "Limits of this comparison", [item_list(LIMITS)]),
    ]


def _table(diff: DevicesDiff) -> Table:
    cells = {
        name: [
            Cell(ratio(each, name), under=diff_text.changed(each, name))
            for _, each in diff.compared
        ]
        for name in diff.candidates
    }
    caption = (
        "Latency after over before, and what else changed. In parentheses: 95 % intervals. "
        "File sizes, memory and scores are in the comparison of each device."
    )
    return device_columns([device.device for device, _ in diff.compared], cells, caption, None)
