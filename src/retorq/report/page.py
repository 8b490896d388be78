"""One HTML page about one or more runs that opens from disk: no network, no other file, nothing to install."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from retorq.report import panel, style, tables
from retorq.report.chart import SERIES_COLORS, Chart, draw, interval, read_out, short
from retorq.report.curves import (
    Group,
    evaluation_interval,
    group_runs,
    learning_chart,
    metric_chart,
    progress_axis,
    time_axis,
)
from retorq.report.filters import first_filters, image_tag
from retorq.report.notes import Notes, load_notes
from retorq.report.runs import Run, load_run, numbers, write_text
from retorq.report.video import is_mp4
from retorq.running.scores import game_id
from retorq.types import UserError

VIDEO_BYTES = 24_000_000
"""Room for the videos of a page; text that holds them is a third longer."""
VIDEOS_PER_RUN = 3
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
    videos = _Videos()
    parts = [
        '<p class="over">retorq training report</p>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(runs, groups))}</p>',
        _run_list(groups),
        _warnings(runs),
    ]
    for section in sections:
        if len(sections) > 1:
            parts.append(f'<h2 class="env">{escape(_env_name(section[0].env))}</h2>')
        parts += _environment(section, videos)
    parts += _about(runs)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="generator" content="retorq">'
        f"<style>{style.PALETTE}{style.CHART}{style.PAGE}{panel.STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main><script>{style.SCRIPT}{panel.SCRIPT}</script></body></html>\n"
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
    return f"{count} on {envs}."


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
        for run in group.runs:
            name = "" if group.name in (run.agent, run.name) else group.name
            small = " · ".join(part for part in (effort(run), name, f"folder {run.name}") if part)
            items.append(
                f'<li class="card s{group.color % SERIES_COLORS}"><span class="swatch"></span>'
                f"<span><strong>{escape(run.label)}</strong>{escape(result(run))}</span>"
                f'<span class="small">{escape(small)}</span></li>'
            )
    return f'<ul class="runs">{"".join(items)}</ul>'


def _warnings(runs: Sequence[Run]) -> str:
    items = [f"<li><strong>{escape(run.name)}</strong>: {escape(note)}</li>" for run in runs for note in run.notes]
    if not items:
        return ""
    return f'<h2>Notes on the data</h2><div class="card warn small"><ul>{"".join(items)}</ul></div>'


def _environment(groups: Sequence[Group], videos: _Videos) -> Iterator[str]:
    runs = [run for group in groups for run in group.runs]
    progress, time = progress_axis(runs), time_axis(runs)
    yield "<h2>Learning</h2>"
    for axis, words in ((progress, progress.label), (time, "wall time")):
        chart = learning_chart(groups, axis, f"Score against {words}")
        if not chart.empty or axis is progress:
            yield _figure(chart, groups, _caption(groups, chart))
    yield videos.section(runs)
    small = [metric_chart(groups, progress, key, title) for key, title in SMALL_CHARTS]
    shown = [_small_figure(chart) for chart in small if not chart.empty]
    if shown:
        yield f'<h2>Inside training</h2><div class="multiples">{"".join(shown)}</div>'
    yield _first_layers(runs)
    yield f"<h2>Evaluation</h2>{tables.evaluation_table(groups)}"
    yield tables.published_table(groups)


def _caption(groups: Sequence[Group], chart: Chart) -> str:
    several, bands = any(line.faint for line in chart.lines), any(line.low for line in chart.lines if not line.faint)
    alone = any(len(group.runs) == 1 for group in groups) and bands
    parts = []
    if several:
        parts.append(
            "Strong line: mean over the runs of one experiment, where all of them have data; "
            "band: from the lowest to the highest run; thin lines: single runs."
        )
    if alone:
        parts.append("A single run's band: 10th to 90th percentile of its last 100 training games.")
    if chart.marks:
        parts.append("Diamonds: evaluations with their 95% interval.")
    return " ".join(parts)


def _figure(chart: Chart, groups: Sequence[Group], caption: str) -> str:
    if chart.empty:
        return '<div class="card"><p class="empty">No scores yet.</p></div>'
    legend = "".join(
        f'<li class="s{group.color % SERIES_COLORS}"><span class="swatch"></span>{escape(group.name)}'
        f"{f' ({len(group.runs)} runs)' if len(group.runs) > 1 else ''}</li>"
        for group in groups
    )
    return (
        f'<figure class="card chart"><h3>{escape(chart.title)}</h3>'
        + (f'<ul class="legend">{legend}</ul>' if len(groups) > 1 else "")
        + draw(chart, 1000, 390, attributes='class="wide"')
        + draw(chart, 400, 330, attributes='class="narrow"')
        + f'<div class="readout" hidden></div><script type="application/json">{read_out(chart)}</script>'
        + f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _small_figure(chart: Chart) -> str:
    scale = " (logarithmic)" if chart.log_y else ""
    return (
        f'<figure class="card chart"><h3>{escape(chart.title[:1].upper() + chart.title[1:] + scale)}</h3>'
        + draw(chart, 440, 220, top=12)
        + f'<div class="readout" hidden></div><script type="application/json">{read_out(chart)}</script></figure>'
    )


def _first_layers(runs: Sequence[Run]) -> str:
    """The filters of the first convolution of every run that has one, of the first few runs."""
    figures = []
    for run in runs[:FILTERED_RUNS]:
        for image, weights in first_filters(run.path).items():
            count, channels, height, width = weights.shape
            words = (
                f"{run.label}: the {count} filters of {height} by {width} weights over the image {image!r}, a row per "
                f"channel ({channels}). Blue is negative, orange positive; each filter has a scale of its own."
            )
            tag = image_tag(weights, escape(words))
            figures.append(f'<figure class="card">{tag}<figcaption>{escape(words)}</figcaption></figure>')
    return f"<h2>First layer</h2>{''.join(figures)}" if figures else ""


class _Videos:
    """Embeds videos until the page's room for them is used up, the newest of each run first."""

    def __init__(self, room: int = VIDEO_BYTES) -> None:
        self.room = room

    def section(self, runs: Sequence[Run]) -> str:
        """The videos of some runs, and a word about those left out; empty if there are none."""
        figures: list[str] = []
        films: list[str] = []
        left: list[str] = []
        for run in runs:
            shown = 0
            for file in reversed(run.videos):
                notes = _notes(file)
                figure = self._embed(run, file, notes) if shown < VIDEOS_PER_RUN else None
                if figure is None:
                    left.append(f"{run.name}/videos/{file.name}")
                else:
                    (figures if notes is None else films).append(figure)
                    shown += 1
        if not figures and not films and not left:
            return ""
        names = escape(", ".join(left))
        note = f'<p class="note">Not shown (older, torn, or beyond the room of a page): {names}.</p>' if left else ""
        told = f'<div class="films">{"".join(films)}</div>' if films else ""
        return f'<h2>Play</h2>{told}<div class="videos">{"".join(figures)}</div>{note}'

    def _embed(self, run: Run, file: Path, notes: Notes | None) -> str | None:
        """A figure with the video inside, None if it is too large, torn or cannot be read."""
        try:
            size = file.stat().st_size
            if size > self.room or not is_mp4(file):
                return None
            data = base64.b64encode(file.read_bytes()).decode("ascii")
        except OSError:
            return None
        self.room -= size
        name = escape(f"{run.label} · {file.stem}")
        video = (
            f'<video controls muted loop playsinline preload="metadata" aria-label="{name}" '
            f'src="data:video/mp4;base64,{data}"></video>'
        )
        if notes is None:
            return f'<figure class="card">{video}<figcaption>{name}</figcaption></figure>'
        beside = panel.panel(notes)
        self.room -= len(beside)
        return (
            f'<div class="film"><figure class="card"><div class="beside">{video}<div>{beside}</div></div>'
            f'<figcaption>{name} · <span class="score"></span>. {panel.caption(notes)}</figcaption></figure>'
            f"{panel.values_chart(notes)}</div>"
        )


def _notes(video: Path) -> Notes | None:
    """What the agent made of a film; a film whose notes are torn is shown without them."""
    try:
        return load_notes(video)
    except UserError:
        return None


def _about(runs: Sequence[Run]) -> Iterator[str]:
    yield "<h2>Settings</h2>"
    yield f"<details open><summary>Configuration</summary>{tables.settings_tables(runs)}</details>"
    yield f"<details><summary>Versions</summary>{tables.settings_tables(runs, 'versions')}</details>"
    commands = "".join(
        f'<p class="small">{escape(run.name)}</p><pre>{escape(run.command or "not stored")}</pre>' for run in runs
    )
    yield f'<details><summary>Commands</summary><div class="card">{commands}</div></details>'
