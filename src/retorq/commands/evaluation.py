"""``retorq eval``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from retorq.arguments import read
from retorq.commands import program
from retorq.types import UserError

SEED = 1_000
"""Seed where none is asked for: none that training would use for its environments."""


@dataclass(frozen=True)
class _Eval:
    """Play whole games by a named protocol; writes RUN/eval/STEP-PROTOCOL-NUMBER.json."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    protocol: str | None = None
    """How to play (retorq list protocols); None: recurrent_iqn_2019 for Atari, else greedy."""
    episodes: int | None = None
    """Games to count; None: the protocol's number."""
    seed: int = SEED
    """Seed of the evaluation's environments and actions."""
    video: int = 0
    """Record this many games of the protocol, of the seeds from --seed on, as RUN/videos/STEP-PROTOCOL-SEED.mp4, each
    with what the agent made of it beside it (.json), which the report shows, too."""
    device: str = "cpu"
    """Where to play: cpu, cuda or cuda:N."""
    json: bool = False
    """Print the record as JSON and nothing else."""


def evaluate(words: list[str]) -> int:
    """Evaluate a run."""
    asked = read(_Eval, words, program.command("eval"))
    if asked.video < 0:
        raise UserError(f"video is {asked.video}; give the number of games to record, 0 or more.")
    from retorq import api
    from retorq.running.evaluate import file_name, protocol

    player = api.load(asked.run, device=asked.device)
    using = protocol(asked.protocol, player.task.env)
    if not asked.json:
        number = "" if asked.episodes is None else f"; {asked.episodes} of them are asked for"
        print(f"playing by protocol {using.name}: {using.summary}{number}", flush=True)
    record = player.evaluate(protocol=using.name, episodes=asked.episodes, seed=asked.seed)
    path = asked.run / "eval" / file_name(record, seed=None if asked.seed == SEED else asked.seed)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record) if asked.json else f"{_told(record)}\nwritten to {path}")
    for seed in range(asked.seed, asked.seed + asked.video):
        file = asked.run / "videos" / f"{player.step}-{using.name}-{seed}.mp4"
        _video(player, file, using.name, seed, quiet=asked.json)
    return 0


def _told(record: dict[str, Any]) -> str:
    games, by = record["episodes"], f"by protocol {record['protocol']} at step {record['step']:,}"
    if not games:
        return f"no game was completed {by}"
    human = f", {record['human_normalised']:.1%} of human" if "human_normalised" in record else ""
    if games == 1:
        return f"score {record['mean']:.2f} in one game{human}, {by}"
    low, high = record["ci95"]
    return (
        f"mean {record['mean']:.2f} (95% interval {low:.2f} to {high:.2f}), median {record['median']:.2f} over "
        f"{games} games{human}, {by}"
    )


def _video(player: Any, path: Path, protocol: str, seed: int, *, quiet: bool) -> None:
    from retorq.report.notes import Recorder
    from retorq.report.video import write_video

    path.parent.mkdir(exist_ok=True)
    spec = player.agent.spec
    recorder = Recorder(15, spec.action_names or [f"action {index}" for index in range(spec.actions)])
    write_video(path, recorder.pictures(player.film(protocol=protocol, seed=seed)), fps=recorder.fps)
    recorder.save(path.with_suffix(".json"))
    if not quiet:
        print(f"recorded a game in {path}")
