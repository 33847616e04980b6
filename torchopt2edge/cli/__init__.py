"""The command line."""

from __future__ import annotations


def entry() -> None:
    """Run the command that ``sys.argv`` names: the entry point of the console script."""
    from torchopt2edge.cli.main import entry as run

    run()
