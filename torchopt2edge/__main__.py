"""Run the commands with ``python -m torchopt2edge``."""

from __future__ import annotations

from torchopt2edge.cli.main import entry

if __name__ == "__main__":
    entry()
