"""One HTML page about one or more runs that opens from disk: no network, no other file, nothing to install."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from retorq.report import figures, moving, style, tables
from retorq.report.chart import shade
from retorq.report.curves import (
    Group,
    evaluation_interval,
    group_runs,
    learning_chart,
    metric_chart,
    progress_axis,
    time_axis,
)
from retorq.report.films import Films
from retorq.report.filters import first_filters, image_tag
from retorq.report.runs import Run, load_run, numbers, write_text
from retorq.report.settings import settings_tables
from retorq.report.ticks import interval, short
from retorq.running.scores import game_id
from retorq.types import UserError

FILTERED_RUNS = 4
SMALL_CHARTS = (
    ("loss", "loss"),
    ("epsilon", "epsilon"),
    ("steps_per_second", "agent steps per second"),
    ("updates_per_second", "updates per second"),
    ("replay_ratio", "replay ratio"),
    ("q_mean", "mean action value"),
    ("gradient_norm", "gradient norm before clipping"),
    ("memory_mb", "memory of the process (MB)"),
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write one self-contained page about run folders to ``out`` and return it.

    Runs of the same environment share a section; repetitions that differ only in their seed are averaged. What is
    missing or torn in a folder is told on the page. Raises UserError if there is no run, a path is not a run folder,
    or ``out`` cannot be written.
    """
    if not runs:
        raise UserError("report has no runs: name at least one run folder")
    loaded = [load_run(Path(path)) for path in dict.fromkeys(Path(path).resolve() for path in runs)]
    return write_text(Path(out), page(loaded))


def page(runs: Sequence[Run]) -> str:
    """The page's HTML."""
    groups = group_runs(runs)
    sections = _sections(groups)
    title = _title(runs)
    films = Films()
    parts = [
        '<p class="over">retorq training report</p>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(runs, groups))}</p>',
        "" if len(sections) > 1 else _run_list(groups),
        _warnings(runs),
    ]
    for place, section in enumerate(sections):
        if len(sections) > 1:
            parts.append(f'<h2 class="env">{escape(_env_name(section[0].env))}</h2>{_run_list(section)}')
        parts += _environment(section, films, f"learning-{place}")
    parts += _about(runs)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="generator" content="retorq">'
        f"<style>{style.PALETTE}{style.CHART}{style.PAGE}{moving.STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main><script>{style.SCRIPT}{moving.SCRIPT}</script></body></html>\n"
    )


def _sections(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups of one environment together; one that tells none stands alone."""
    found: dict[str, list[Group]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group.env or f"unknown {index}", []).append(group)
    return list(found.values())


def _env_name(env: str) -> str:
    return game_id(env) or env or "Unknown environment"


def _title(runs: Sequence[Run]) -> str:
    envs = list(dict.fromkeys(_env_name(run.env) for run in runs))
    agents = list(dict.fromkeys(run.agent or "unknown agent" for run in runs))
    what = envs[0] if len(envs) == 1 else f"{len(envs)} environments"
    return f"{what}: {agents[0]}" if len(agents) == 1 else f"{what}: {len(agents)} agents"


def _lead(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    envs = ", ".join(dict.fromkeys(run.env or "an environment that is not told" for run in runs))
    count = "One run" if len(runs) == 1 else f"{len(runs)} runs of {len(groups)} experiments"
    if len(groups) == 1 and len(runs) > 1:
        count = f"{len(runs)} runs of one experiment"
    shared = any(len(set(group.run_colors())) < len(group.runs) for group in groups)
    return f"{count} on {envs}." + (" Runs of one experiment share a color." if shared else "")


def duration(seconds: float) -> str:
    """A time span in its two largest units: ``1 h 12 min``."""
    whole = round(seconds)
    for size, name, below, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}\u00a0{name}" + (f"\u00a0{rest}\u00a0{part}" if rest else "")
    return f"{whole}\u00a0s"


def result(run: Run) -> str:
    """What a run has reached, in one phrase: its last evaluation, or its training score where there is none."""
    if not run.evaluations:
        last = run.last("score_mean")
        return "no score yet" if last is None else f"{short(last)} in its last training games, not evaluated"
    row = run.evaluations[-1]
    mean, low, high = evaluation_interval(row)
    games = len(numbers(row, "scores"))
    center, bottom, top = interval(mean, low, high)
    between = f" (95% interval {bottom} to {top})" if games > 1 else ""
    text = f"{center}{between} in {games} evaluation {'game' if games == 1 else 'games'}"
    normalized = tables.percent(run.env, mean)
    return f"{text}, {normalized} of human" if normalized else text


def effort(run: Run) -> str:
    """How far a run got and how fast, in one phrase."""
    steps, frames, seconds = run.last("step"), run.last("frames"), run.last("seconds")
    parts = []
    if frames is not None and frames != steps:
        parts.append(f"{short(frames)} frames")
    elif steps is not None:
        parts.append(f"{short(steps)} steps")
    if seconds is not None:
        parts.append(duration(seconds))
    if steps and seconds:
        parts.append(f"{short(float(f'{steps / seconds:.3g}'))} steps/s on average")
    return " · ".join(parts)


def _run_list(groups: Sequence[Group]) -> str:
    items = []
    for group in groups:
        for run, color in zip(group.runs, group.run_colors(), strict=True):
            name = "" if group.name in (run.agent, run.name) else group.name
            small = " · ".join(part for part in (effort(run), name, f"folder {run.name}") if part)
            items.append(
                f'<li class="card {shade(color)}"><span class="swatch"></span>'
                f"<span><strong>{escape(run.label)}</strong>{escape(result(run))}</span>"
                f'<span class="small">{escape(small)}</span></li>'
            )
    return f'<ul class="runs">{"".join(items)}</ul>'


def _warnings(runs: Sequence[Run]) -> str:
    items = [f"<li><strong>{escape(run.name)}</strong>: {escape(note)}</li>" for run in runs for note in run.notes]
    if not items:
        return ""
    return f'<div class="card warn small"><strong>Notes on the data</strong><ul>{"".join(items)}</ul></div>'


def _environment(groups: Sequence[Group], films: Films, name: str) -> Iterator[str]:
    runs = [run for group in groups for run in group.runs]
    progress, time = progress_axis(runs), time_axis(runs)
    yield "<h2>Learning</h2>"
    charts = [
        (label, learning_chart(groups, axis, f"Score against {words}"))
        for label, axis, words in ((progress.label, progress, progress.label), ("wall time", time, "wall time"))
    ]
    drawn = [(label, figures.figure(chart, groups)) for label, chart in charts if not chart.empty]
    yield figures.switched(name, drawn) if drawn else '<div class="card"><p class="empty">No scores yet.</p></div>'
    yield films.section(runs)
    small = [metric_chart(groups, progress, key, title) for key, title in SMALL_CHARTS]
    shown = [figures.small(chart) for chart in small if not chart.empty]
    if shown:
        names = figures.legend(groups, beside=False, means=False)
        yield f'<h2>Inside training</h2>{names}<div class="multiples">{"".join(shown)}</div>'
    yield _first_layers(runs)
    yield f"<h2>Evaluation</h2>{tables.evaluation_table(groups)}"
    yield tables.published_table(groups)


def _first_layers(runs: Sequence[Run]) -> str:
    """The filters of the first convolution of every run that has one, of the first few runs."""
    figures = []
    for run in runs[:FILTERED_RUNS]:
        for image, weights in first_filters(run.path).items():
            count, channels, height, width = weights.shape
            words = (
                f"{run.label}: the {count} filters of {height} by {width} weights over the image {image!r}, a column "
                f"per filter, a row per channel ({channels}). Blue is negative, orange positive; each filter has a "
                "scale of its own."
            )
            tag = image_tag(weights, escape(words))
            figures.append(f'<figure class="card">{tag}<figcaption>{escape(words)}</figcaption></figure>')
    return f"<h2>First layer</h2>{''.join(figures)}" if figures else ""


def _about(runs: Sequence[Run]) -> Iterator[str]:
    yield "<h2>Settings</h2>"
    yield f"<details open><summary>Configuration</summary>{settings_tables(runs)}</details>"
    yield f"<details><summary>Versions</summary>{settings_tables(runs, 'versions')}</details>"
    commands = "".join(
        f'<p class="small">{escape(run.name)}</p><pre>{escape(run.command or "not stored")}</pre>' for run in runs
    )
    yield f'<details><summary>Commands</summary><div class="card">{commands}</div></details>'
