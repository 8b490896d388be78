"""``retorq eval``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
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
    video: tuple[str, ...] = ()
    """Games to film: best, worst, median, or the number of a score in the record (from 0); another is one more game.
    Writes RUN/videos/STEP-PROTOCOL-NUMBER-GAME.mp4, and what the agent made of it (.json), which the report shows."""
    device: str = "cpu"
    """Where to play: cpu, cuda or cuda:N."""
    json: bool = False
    """Print the record as JSON and nothing else."""


def evaluate(words: list[str]) -> int:
    """Evaluate a run."""
    asked = read(_Eval, words, program.command("eval"))
    from retorq import api
    from retorq.report.video import encoder
    from retorq.running.again import Tape, require_choice
    from retorq.running.evaluate import file_name, games_of, protocol
    from retorq.running.process import prepare
    from retorq.running.train import RunOptions

    filming = "--video" in words or bool(asked.video)
    if filming:
        encoder()
        require_choice(asked.video)
    player = api.load(asked.run, device=asked.device)
    prepare(RunOptions(steps=1, device=asked.device), player.task.agent)
    using = protocol(asked.protocol, player.task.env)
    count = games_of(using, asked.episodes)
    tape = None
    if filming:
        require_choice(asked.video, count)
        tape = Tape()

    def say(line: str) -> None:
        if not asked.json:  # then the record is all there is to say
            print(line, flush=True)

    summary = using.summary.replace(f"first {using.episodes} games", f"first {count} games")
    say(f"playing at step {player.step:,} of {player.total:,} by protocol {using.name}: {summary}")
    record = player.evaluate(protocol=using.name, episodes=asked.episodes, seed=asked.seed, tape=tape, say=say)
    path = asked.run / "eval" / file_name(record, seed=None if asked.seed == SEED else asked.seed)
    print(json.dumps(record) if asked.json else _told(record), flush=True)
    _keep(path, record)
    say(f"written to {path}")
    if tape is not None:
        _films(player, asked, record, tape, path.stem)
    return 0


def _keep(path: Path, record: dict[str, Any]) -> None:
    from retorq.running.folder import replace_file

    try:
        replace_file(path, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"the evaluation could not be written to {str(path)!r} ({error.strerror}): make room or give leave, and "
            "evaluate again; what is printed above is all of it that there is."
        ) from error


def _told(record: dict[str, Any]) -> str:
    games = record["episodes"]
    by = f"by protocol {record['protocol']} at step {record['step']:,} of {record['total_steps']:,}"
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


def _films(player: Any, asked: _Eval, evaluation: dict[str, Any], tape: Any, stem: str) -> None:
    """Film the games that were asked for; ``stem`` is the name of their evaluation."""
    from retorq.report.record import record
    from retorq.running.again import ANOTHER, choose

    def write(name: str | int, film: Any, length: int, title: str) -> None:
        file = asked.run / "videos" / f"{stem}-{name}.mp4"
        record(file, film, spec=player.agent.spec, length=length, title=title)
        if not asked.json:
            print(f"filmed {title}: {file}", flush=True)

    count = evaluation["episodes"]
    for number, name in choose([word for word in asked.video if word != ANOTHER], evaluation["scores"]).items():
        game = tape.game(number, evaluation)
        which = f"the {name} of {count} games (number {number})" if name else f"game {number} of {count}"
        write(number, player.again(game), game.length, f"{which}, score {game.score:g}")
    if ANOTHER in asked.video:
        length = int(median(evaluation["lengths"])) if count else 1000
        film = player.film(protocol=evaluation["protocol"], seed=asked.seed + 1)
        write(ANOTHER, film, length, "a game besides those evaluated")
