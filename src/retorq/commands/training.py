"""``retorq train`` and ``retorq resume``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from retorq.acting.ray_settings import DEFAULT_TOKEN
from retorq.arguments import first, read, told
from retorq.commands import program
from retorq.types import UserError

if TYPE_CHECKING:
    from retorq.running.closing import Next

OF_RUNS = {
    "steps": "agent steps of the whole run, all environments together",
    "seed": "one seed for everything that is random",
    "device": "where to learn: cpu, cuda or cuda:N",
    "threads": "CPU threads of the learner; 0: one where updates are small, else all cores, one less with hz",
    "log_every": "agent steps between rows of metrics.jsonl; None: 200 rows a run",
    "checkpoint_seconds": "seconds between checkpoints; one is always written at the end",
    "save_replay": "keep the replay in checkpoints, so that a run goes on exactly",
    "pool": "where acting happens: in this process (local), or in others at the same time",
    "actors": "of a pool that is not local: how many share the environments",
    "actor_rows": "of a pool that is not local: steps of each environment per message",
    "hz": "of a pool that is not local: play in real time, so many steps of each environment per second; 0: at once",
    "actor_time_limit": "of a pool that is not local: seconds until a silent actor, shard or bundle is started anew",
    "replay_shards": "of the pool ray: processes that hold the replay; 0: the learner does",
    "cluster": "of the pool ray: HOST:PORT of a cluster to join (retorq cluster); none: this host alone",
    "cluster_token": "file with the token of that cluster",
}
"""Fields of ``RunOptions`` that can be asked for, and what is said of them."""


def say(line: str) -> None:
    """Print one line at once."""
    print(line, flush=True)


def train(words: list[str]) -> int:
    """Train an agent on an environment."""
    from retorq import algorithms, api
    from retorq.envs.make import describe
    from retorq.running.folder import default_path
    from retorq.running.process import prepare
    from retorq.running.train import RunOptions, introduce

    prog = program.command("train")
    agent = first(words, "--agent") or "recurrent_iqn"
    module = algorithms.load(agent)
    preset = first(words, "--preset")
    try:
        given = told(_training(module, agent, "toy"), words, prog)  # an agent has the same options in all presets
    except UserError as error:
        raise UserError(_of_others(words, agent, module) or str(error)) from error
    if preset is None and "environment" in given:
        # Which environment it is may depend on its options.
        first_read: Any = read(_training(module, agent, "toy"), _without_help(words), prog)
        preset = api.default_preset(describe(first_read.environment, first_read.env), first_read.device)
    asked: Any = read(_training(module, agent, preset or "toy"), words, prog)
    settings = {name: getattr(getattr(asked, group), name) for group, name in _settings(module) if name in given}
    task = api.compose(
        asked.environment,
        agent=asked.agent,
        preset=asked.preset,
        config=settings,
        options=asked.env,
        device=asked.device,
        seed=asked.seed,
    )
    of_run = {field.name: getattr(asked, field.name) for field in fields(RunOptions) if hasattr(asked, field.name)}
    run = RunOptions(**of_run | ({"log_every": api.log_period(asked.steps)} if asked.log_every is None else {}))
    for sentence in api.idle(task, run, settings):
        raise UserError(sentence)
    if asked.dry_run:
        prepare(run, task.agent)
        introduce(task, run, say)
        return 0
    path = asked.run or default_path(asked.environment, asked.agent, asked.seed)
    return api.start(task, run, path, say=say, then=_next(path, program.again(path))).code


def _of_others(words: Sequence[str], agent: str, module: ModuleType) -> str:
    """A sentence about the first option that this agent has not and others have; empty if there is none."""
    from retorq import algorithms

    own = {name for _, name in _settings(module)}
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
        owners = [other for other in algorithms.AGENTS if name in get_type_hints(algorithms.load(other).Config)]
        if owners and name not in own:
            those = ", ".join(owners)
            return f"option {flag} does not exist for {agent}, but for {those}; change --agent or leave it away."
    return ""


def _next(path: Path, resume: str) -> Next:
    from retorq.running.closing import Next

    return Next(resume=resume, evaluate=program.told("eval", path))


def _without_help(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in ("-h", "--help")]


def _argument(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def _training(module: ModuleType, agent: str, preset: str) -> type:
    """The arguments of ``train``, with the defaults of a preset."""
    from retorq import algorithms, api
    from retorq.algorithms.help import GROUPS, HELP
    from retorq.envs.options import EnvOptions
    from retorq.running.train import RunOptions

    config = algorithms.preset(agent, preset)
    kinds = get_type_hints(RunOptions) | {"log_every": int | None}
    defaults = {f.name: f.default for f in fields(RunOptions)} | {"steps": api.STEPS[preset], "log_every": None}

    def argument(name: str, kind: Any, default: Any, text: str) -> tuple[str, Any, Any]:
        return name, _argument(kind, text), field(default=default)

    environment = tyro.conf.arg(metavar="ENV", help="what to play (retorq list envs)")
    arguments: list[tuple[str, Any, Any]] = [
        argument("agent", str, agent, "which agent (retorq list agents)"),
        argument("preset", str, preset, f"where its settings start from: one of {', '.join(module.PRESETS)}"),
        argument("run", Path | None, None, "run folder; None: runs/ENV-AGENT-SEED"),
        *(argument(name, kinds[name], defaults[name], text) for name, text in OF_RUNS.items()),
        argument("dry_run", bool, False, "print what would run, and stop"),
    ]
    groups: dict[str, list[str]] = {}
    for group, name in _settings(module):
        groups.setdefault(group, []).append(name)
    hints, presets = get_type_hints(module.Config), {name: make() for name, make in module.PRESETS.items()}
    parts: list[tuple[str, Any, Any]] = []
    for group, names in groups.items():
        texts = {name: HELP[group][name] + _by_preset(presets, name) for name in names}
        kind = make_dataclass(
            group, [argument(name, hints[name], getattr(config, name), texts[name]) for name in names], frozen=True
        )
        kind.__doc__ = GROUPS[group]
        parts.append((group, Annotated[kind, tyro.conf.OmitArgPrefixes], field(default=kind())))
    command = make_dataclass(
        "train",
        [
            ("environment", Annotated[tyro.conf.Positional[str], environment]),
            *arguments,
            *parts,
            ("env", EnvOptions, field(default=EnvOptions())),
        ],
        frozen=True,
    )
    command.__doc__ = f"Train {agent}. Settings start from the preset {preset!r}; brackets show where presets differ."
    return command


def _settings(module: ModuleType) -> list[tuple[str, str]]:
    """The agent's settings, each with the group in which the help shows it."""
    from retorq.algorithms.help import HELP

    known = get_type_hints(module.Config)
    return [(group, name) for group, texts in HELP.items() for name in texts if name in known]


def _by_preset(presets: Mapping[str, Any], name: str) -> str:
    """The values of a setting in all presets, unless they are the same."""
    values = {preset: getattr(config, name) for preset, config in presets.items()}
    if len(set(values.values())) == 1:
        return ""
    return f" [{', '.join(f'{preset} {_shown(value)}' for preset, value in values.items())}]"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Resume:
    """Go on with a stopped run. What is not given stays as it was when the run was last started."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    device: str = "cpu"
    """Where to learn: cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads of the learner; 0: one where updates are small, else all cores, one less with --hz."""
    checkpoint_seconds: float = 600.0
    """Seconds between checkpoints; one is always written at the end."""
    save_replay: bool = True
    """Keep the replay in checkpoints, so that a run goes on exactly."""
    actor_rows: int = 10
    """Of a pool that is not local: steps of each environment per message."""
    hz: float = 0.0
    """Of a pool that is not local: play in real time, so many steps of each environment per second; 0: at once."""
    actor_time_limit: float = 60.0
    """Of a pool that is not local: seconds until a silent actor, shard or bundle is started anew."""
    cluster: str = ""
    """Of the pool ray: HOST:PORT of a cluster to join (retorq cluster); none: this host alone."""
    cluster_token: str = str(DEFAULT_TOKEN)
    """File with the token of that cluster."""


def resume(words: list[str]) -> int:
    """Go on with a stopped run."""
    asked = read(_Resume, words, program.command("resume"))
    from retorq import api

    given = told(_Resume, words, program.command("resume"))
    how = {field.name: getattr(asked, field.name) for field in fields(asked) if field.name in given}
    how.pop("run", None)
    return api.resume(asked.run, say=say, then=_next(asked.run, program.told("resume", asked.run)), **how).code
