"""Make ``docs/onnx.md``, how to run an exported model, out of ``docs/snippets``.

The text is in ``page.md``; a line ``{run.py}`` stands for the program of this name.
``python tools/onnx_page.py --write`` writes the page; a test runs the programs, and holds the page
against them.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

__all__ = ["PAGE", "SNIPPETS", "page"]

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "onnx.md"
SNIPPETS = DOCS / "snippets"

LANGUAGES = {".py": "python", ".mjs": "js", ".cpp": "cpp", ".cs": "csharp"}


def page() -> str:
    """Return the page."""
    text = (SNIPPETS / "page.md").read_text(encoding="utf-8")
    return re.sub(r"^\{(\S+)\}$", lambda line: _listing(SNIPPETS / line[1]), text, flags=re.M)


def _listing(program: Path) -> str:
    return f"```{LANGUAGES[program.suffix]}\n{program.read_text(encoding='utf-8')}```"


def main() -> None:
    """Write the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/onnx.md")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        raise SystemExit("docs/onnx.md is out of date: python tools/onnx_page.py --write")


if __name__ == "__main__":
    main()
