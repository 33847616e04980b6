"""A figure as an SVG file of its own, for ``report.md`` and for documents.

The file holds its style: light, on an opaque background, so it can be read on a white and on a
dark page. Its colours are written out, as not every program that shows SVG knows CSS variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files

from torchopt2edge.report.figure.canvas import fit
from torchopt2edge.report.figure.figure import Figure, svg_element

FOLDER = "figures"
"""Where a run's folder holds the files."""

_SIDE, _TOP = 14.0, 44.0  # margins beside and over the drawing, in pixels
_VARIABLE = re.compile(r"--([\w-]+): ([^;]+);")
_RULE = re.compile(r"^svg (\.?)([\w-]+) \{ (.*) \}$", re.MULTILINE)
_COLOUR = re.compile(r"^\.([\w-]+) \{ --c: var\(--(\w+)\); \}$", re.MULTILINE)


def file_name(figure: Figure) -> str:
    """Return the name of a figure's file.

    Args:
        figure: The figure.

    Returns:
        The name within the run's folder.
    """
    return f"{FOLDER}/{figure.key}.svg"


def figure_style() -> str:
    """Return the style sheet of the drawings, light and dark."""
    return files("torchopt2edge.report.figure").joinpath("figure.css").read_text("utf-8")


def figure_files(figures: Iterable[Figure]) -> dict[str, str]:
    """Return the files of figures.

    Args:
        figures: The figures.

    Returns:
        The text of each file by its name.
    """
    return {file_name(figure): standalone(figure) for figure in figures}


def standalone(figure: Figure) -> str:
    """Return the wide drawing of a figure as an SVG document.

    Args:
        figure: The figure.

    Returns:
        The document: title, description, style, background, heading and drawing.
    """
    drawing = figure.wide
    width, height = drawing.width + 2 * _SIDE, drawing.height + _TOP + _SIDE
    heading = fit(figure.title, drawing.width - 40, strong=True)
    text = svg_element(
        figure, drawing, figure.key, (_SIDE, _TOP), ' xmlns="http://www.w3.org/2000/svg"'
    )
    head, end, body = text.partition("</desc>")
    before = (
        f"<style>{_light_style(body)}</style>"
        f'<rect class="paper" x="{-_SIDE:g}" y="{-_TOP:g}" width="{width:g}" height="{height:g}" '
        f'rx="6"/><text class="heading" x="0" y="-18">{escape(heading)}</text>'
    )
    return f"{head}{end}{before}{body}\n"


def _light_style(body: str) -> str:
    """Return the rules that a drawing uses, with the colours of the light theme written out."""
    style = figure_style()
    light = dict(_VARIABLE.findall(style.partition("@media")[0]))
    colours = {name: light[variable] for name, variable in _COLOUR.findall(style)}
    used = {name for names in re.findall(r'class="([^"]*)"', body) for name in names.split()}
    rules: list[str] = []
    for dot, name, declarations in _RULE.findall(style):
        if dot and name not in used | {"paper", "heading"}:
            continue
        text = _resolved(declarations, light)
        if "var(--c)" not in text:
            rules.append(f"{dot}{name}{{{text}}}")
            continue
        rules += [
            f".{name}.{colour}{{{text.replace('var(--c)', colours[colour])}}}"
            for colour in sorted(used & set(colours))
        ]
    return "".join(rules)


def _resolved(declarations: str, variables: Mapping[str, str]) -> str:
    """Return declarations with every variable but ``--c`` replaced by its value."""
    return re.sub(
        r"var\(--([\w-]+)\)",
        lambda match: match[0] if match[1] == "c" else variables[match[1]],
        declarations,
    )
