"""Fills a page: one file that opens from disk, asks for nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

_HERE = "torchopt2edge.report.page"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|MB|points)(?!\w))")  # no line breaks there


def fill(template: str, headline: str, **words: Any) -> str:
    """Return the page; equal input gives equal text.

    Its policy lets run and show what it holds and nothing else: the style sheet and the script
    are named by their hashes.
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
    style, script = _resource("style.css"), _resource("script.js")
    return jinja.get_template(template).render(
        headline=headline,
        shown=_UNIT.sub("\u00a0", headline),
        style=style,
        script=script,
        policy=_policy(style, script),
        **words,
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
