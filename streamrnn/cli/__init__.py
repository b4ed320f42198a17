"""The command ``streamrnn``; it needs the extra ``cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; errors are one line on stderr and exit code 1."""
    try:
        from .app import app
    except ImportError as error:
        sys.exit(f"the command needs typer and rich: pip install streamrnn[cli] ({error})")
    app()
