"""``report.html``: the whole report in one file that opens from disk and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from torchopt2edge.report.line import Line, lines, plain
from torchopt2edge.report.markdown import _method
from torchopt2edge.report.page.section import sections
from torchopt2edge.report.words import headline
from torchopt2edge.types import Measurement, Verdict

_HERE = "torchopt2edge.report.page"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|MB|points)(?!\w))")  # no line breaks there


def render(rows: Sequence[Measurement], verdict: Verdict, context: Mapping[str, Any]) -> str:
    """Return the page; ``context`` holds what ``context.json`` does.

    Equal input gives equal text. Its policy lets run and show what it holds and nothing else:
    the style sheet and the script are named by their hashes.
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
    table = lines(rows, verdict)
    said = headline(rows, verdict)
    style, script = _resource("style.css"), _resource("script.js")
    return jinja.get_template("page.html.jinja").render(
        title=plain(context["title"] or "torchopt2edge"),
        headline=said,
        shown=_UNIT.sub("\u00a0", said),
        reasons=[plain(reason) for reason in verdict.reasons],
        measured=_measured(table),
        sections=sections(table, verdict, context),
        style=style,
        script=script,
        policy=_policy(style, script),
    )


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


def _measured(table: Sequence[Line]) -> str:
    """Return on one line where and how it was measured, "" when nothing was."""
    known = {what: plain(how) for what, how in _method(table, {})}
    parts = [
        *(known[what] for what in ("device", "runtimes") if what in known),
        f"protocol {known['protocol']}" if "protocol" in known else "",
        f"{known['rounds']} rounds" if "rounds" in known else "",
    ]
    return " · ".join(part for part in parts if part)
