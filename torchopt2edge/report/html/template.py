"""Fills the template of a page: one file that opens from disk and makes no request."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from torchopt2edge.report.figure.standalone import figure_style
from torchopt2edge.report.html.blocks import Section

_HERE = "torchopt2edge.report.html"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|MB|points)(?!\w))")
_RANGE = re.compile(r"(?<=\d)–(?=[\d−])")


def fill(
    headline: str,
    *,
    title: str,
    sections: Sequence[Section | None],
    footer: str,
    reasons: Sequence[str] = (),
    measured: str = "",
    kind: str = "report",
) -> str:
    """Fill the page; equal input gives equal text.

    The page's policy allows what it holds and nothing else: the style sheet and the script are
    named by their hashes.

    Args:
        headline: The one sentence to read first.
        title: What the page is about.
        sections: Its sections; None is left out.
        footer: Its last line; file names stand between backticks.
        reasons: Sentences below the headline.
        measured: One line on where and how it was measured.
        kind: What the page is called.

    Returns:
        The HTML.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader(_HERE, ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    jinja.filters["unbroken"] = _unbroken
    style, script = f"{figure_style()}\n{_resource('style.css')}", _resource("script.js")
    return jinja.get_template("page.html.jinja").render(
        headline=headline,
        title=title,
        sections=[section for section in sections if section is not None],
        footer=footer,
        reasons=reasons,
        measured=measured,
        kind=kind,
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _unbroken(text: str) -> str:
    """Keep a number on one line with its unit, and the two ends of an interval."""
    return _RANGE.sub("\u2060–\u2060", _UNIT.sub("\u00a0", text))


def _resource(name: str) -> str:
    return files(_HERE).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
