"""``python -m retorq.report RUN... --out FILE``: a page (.html) or one learning curve (.svg)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retorq.report import write_curve, write_report
from retorq.report.runs import new_folder
from retorq.types import UserError


def main(arguments: list[str] | None = None) -> int:
    """Write what the suffix of ``--out`` asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m retorq.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="an .html page or an .svg picture")
    parser.add_argument("--against", choices=("progress", "time"), default="progress", help="x axis of a picture")
    parser.add_argument("--title", default="", help="title of a picture")
    options = parser.parse_args(arguments)
    folder = new_folder(options.out)
    try:
        if options.out.suffix == ".svg":
            out = write_curve(options.runs, options.out, against=options.against, title=options.title)
        else:
            out = write_report(options.runs, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{out}{folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
