"""One learning curve as an SVG file, for a README: the chart of the report page with its own title."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Literal

from retorq.report import style
from retorq.report.chart import draw
from retorq.report.curves import group_runs, learning_chart, progress_axis, time_axis
from retorq.report.runs import load_run, write_text
from retorq.running.scores import game_id
from retorq.types import UserError

WIDTH, HEIGHT = 900, 420


def write_curve(
    runs: Sequence[Path], out: Path, *, against: Literal["progress", "time"] = "progress", title: str = ""
) -> Path:
    """Draw the learning curves of runs on one environment into the SVG file ``out`` and return it.

    ``against`` is training progress (emulator frames, or agent steps where those are the same) or wall time. The
    picture follows the viewer's light or dark setting. Raises UserError if the runs are of several environments, have
    no scores, are not run folders, or ``out`` is not an ``.svg``.
    """
    out = Path(out)
    if out.suffix != ".svg":
        raise UserError(f"out {str(out)!r} is not an .svg file: name one, for example {str(out.with_suffix('.svg'))!r}")
    loaded = [load_run(Path(path)) for path in dict.fromkeys(Path(path).resolve() for path in runs)]
    envs = sorted({run.env for run in loaded})
    if len(envs) != 1:
        raise UserError(f"runs are of {len(envs)} environments ({', '.join(envs)}): draw one picture for each")
    groups = group_runs(loaded)
    axis = time_axis(loaded) if against == "time" else progress_axis(loaded)
    name = title or f"{game_id(envs[0]) or envs[0]}: {', '.join(dict.fromkeys(run.agent for run in loaded))}"
    chart = learning_chart(groups, axis, name)
    if chart.empty:
        raise UserError(f"runs {', '.join(run.name for run in loaded)} have no scores yet: train longer")
    head = (
        f"<style>{style.PALETTE}{style.CHART}</style>"
        '<rect width="100%" height="100%" rx="10" style="fill:var(--card)"/>'
        f'<text class="title" x="20" y="32">{escape(name)}</text>'
    )
    frame = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
    text = draw(chart, WIDTH, HEIGHT, top=70, extra=head, attributes=frame)
    return write_text(out, text + "\n")
