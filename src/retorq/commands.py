"""What each command of the command line does; the arguments are dataclasses and functions that tyro reads."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from retorq.types import UserError


def train(words: list[str]) -> int:
    """Train an agent on an environment."""
    from retorq import algorithms, api
    from retorq.running.folder import default_path
    from retorq.running.train import RunOptions, introduce, prepare

    early = _early(words)
    module = algorithms.load(early.agent)
    preset = early.preset or _default_preset(early.env, early.device)
    asked: Any = tyro.cli(_training(module, early.agent, preset), args=words, prog="retorq train")
    if early.preset is None and early.env is None:
        # Options came before ENV, which decides the preset that the settings start from: read them again.
        preset = _default_preset(asked.environment, early.device)
        asked = tyro.cli(_training(module, early.agent, preset), args=words, prog="retorq train")
    task = api.compose(
        asked.environment,
        agent=asked.agent,
        preset=asked.preset,
        config=asked.config,
        options=asked.options,
        device=asked.device,
        seed=asked.seed,
    )
    run = RunOptions(
        steps=asked.steps,
        seed=asked.seed,
        device=asked.device,
        threads=asked.threads,
        log_every=api.log_period(asked.steps) if asked.log_every is None else asked.log_every,
        checkpoint_seconds=asked.checkpoint_seconds,
        save_replay=asked.save_replay,
    )
    if asked.dry_run:
        prepare(run)
        introduce(task, run, _say)
        return 0
    path = asked.run or default_path(asked.environment, asked.agent, asked.seed)
    return api.start(task, run, path, say=_say).code


def _training(module: Any, agent: str, preset: str) -> type:
    """The arguments of ``train``, with the defaults of a preset."""
    from retorq import algorithms, api
    from retorq.envs.options import EnvOptions

    config = algorithms.preset(agent, preset)

    def argument(name: str, kind: Any, default: Any, text: str) -> tuple[str, Any, Any]:
        return name, Annotated[kind, tyro.conf.arg(help=text)], field(default=default)

    command = make_dataclass(
        "train",
        [
            ("environment", Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]),
            argument("agent", str, agent, "see: retorq list agents"),
            argument("preset", str, preset, f"one of {', '.join(module.PRESETS)}"),
            argument("run", Path | None, None, "run folder (runs/ENV-AGENT-SEED)"),
            argument("steps", int, api.STEPS[preset], "agent steps, all environments together"),
            argument("seed", int, 0, "one seed for everything"),
            argument("device", str, "cpu", "cpu or cuda"),
            argument("threads", int, 0, "CPU threads; 0: all cores"),
            argument("log_every", int | None, None, "steps between rows of metrics.jsonl"),
            argument("checkpoint_seconds", float, 600.0, "seconds between checkpoints"),
            argument("save_replay", bool, True, "keep the replay in checkpoints"),
            argument("dry_run", bool, False, "print what would run, and stop"),
            ("options", Annotated[EnvOptions, tyro.conf.arg(name="env")], field(default=EnvOptions())),
            ("config", Annotated[type(config), tyro.conf.OmitArgPrefixes], field(default=config)),
        ],
        frozen=True,
    )
    command.__doc__ = f"Train {agent} (settings below start from the preset {preset!r})."
    return command


def _early(words: list[str]) -> argparse.Namespace:
    """What decides which settings there are, read before the rest: environment, agent, preset, device."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("agent", "recurrent_iqn"), ("preset", None), ("device", "cpu")):
        parser.add_argument(f"--{name}", default=default)
    known, rest = parser.parse_known_args(words)
    known.env = next((word for word in rest[:1] if not word.startswith("-")), None)
    return known


def _default_preset(env: str | None, device: str) -> str:
    from retorq import api
    from retorq.envs.make import describe

    return "toy" if env is None else api.default_preset(describe(env), device)


def _say(line: str) -> None:
    print(line, flush=True)


def resume(words: list[str]) -> int:
    """Go on with a stopped run."""
    from retorq import api

    def command(
        run: tyro.conf.Positional[Path],
        device: str = "cpu",
        threads: int = 0,
        checkpoint_seconds: float = 600.0,
        save_replay: bool = True,
    ) -> int:
        """Go on with a stopped run.

        Args:
            run: The run folder.
            device: cpu or cuda.
            threads: CPU threads; 0: all cores.
            checkpoint_seconds: Seconds between checkpoints.
            save_replay: Keep the replay in checkpoints.
        """
        went = api.resume(
            run,
            device=device,
            threads=threads,
            checkpoint_seconds=checkpoint_seconds,
            save_replay=save_replay,
            say=_say,
        )
        return went.code

    return tyro.cli(command, args=words, prog="retorq resume")


@dataclass(frozen=True)
class _Eval:
    """Play whole games by a named protocol; writes RUN/eval/STEP-PROTOCOL.json."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    protocol: str | None = None
    """See: retorq list protocols (default: recurrent_iqn_2019 for Atari, else greedy)."""
    episodes: int | None = None
    """Games to count, instead of the protocol's number."""
    seed: int = 1_000
    """Seed of the evaluation's environments and actions."""
    video: int = 0
    """Record this many games, of the seeds from --seed on, played by the protocol, as RUN/videos/STEP-I.mp4, with what
    the agent made of them (STEP-I.json), which the report shows beside the film."""
    device: str = "cpu"
    """cpu or cuda."""
    json: bool = False
    """Print the record as JSON and nothing else."""


def evaluate(words: list[str]) -> int:
    """Evaluate a run."""
    asked = tyro.cli(_Eval, args=words, prog="retorq eval")
    from retorq import api
    from retorq.running.evaluate import protocol

    player = api.load(asked.run, device=asked.device)
    using = protocol(asked.protocol, player.task.env)
    if not asked.json:
        print(f"{using.name}: {using.summary}", flush=True)
    record = player.evaluate(protocol=using.name, episodes=asked.episodes, seed=asked.seed)
    path = asked.run / "eval" / f"{player.step}-{using.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    if asked.json:
        print(json.dumps(record))
    else:
        print(_told(record), f"\nwritten to {path}")
    for number in range(asked.video):
        file = asked.run / "videos" / f"{player.step}-{number}.mp4"
        _video(player, file, using.name, asked.seed + number, quiet=asked.json)
    return 0


def _told(record: dict[str, Any]) -> str:
    if not record["episodes"]:
        return "no game was completed"
    low, high = record["ci95"]
    human = f", {record['human_normalised']:.1%} of human" if "human_normalised" in record else ""
    return (
        f"mean {record['mean']:.2f} (95% interval {low:.2f} to {high:.2f}), median {record['median']:.2f} over "
        f"{record['episodes']} games{human}, at step {record['step']:,}"
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


def report(words: list[str]) -> int:
    """Write one page about one or more runs."""
    from retorq.report.page import write_report

    def command(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> int:
        """Write one self-contained page: curves, scores, settings, video.

        Args:
            runs: Run folders; runs of one agent on one environment are drawn together.
            out: The page (default: report.html in the first run's folder).
        """
        if not runs:
            raise UserError("runs is empty; name at least one run folder.")
        print(f"written to {write_report(list(runs), out or runs[0] / 'report.html')}")
        return 0

    return tyro.cli(command, args=words, prog="retorq report")


def show(words: list[str]) -> int:
    """List what there is."""

    def command(what: tyro.conf.Positional[Literal["agents", "envs", "protocols", "studies"]]) -> int:
        """List agents, environments, evaluation protocols or studies.

        Args:
            what: What to list.
        """
        for name, about in _listed(what):
            print(f"{name:<32}{about}")
        return 0

    return tyro.cli(command, args=words, prog="retorq list")


def _listed(what: str) -> list[tuple[str, str]]:
    if what == "agents":
        from retorq import algorithms

        modules = {name: algorithms.load(name) for name in algorithms.AGENTS}
        return [
            (name, f"{(module.__doc__ or '').splitlines()[0]} Presets: {', '.join(module.PRESETS)}.")
            for name, module in modules.items()
        ]
    if what == "protocols":
        from retorq.running.evaluate import PROTOCOLS

        return [(name, protocol.summary) for name, protocol in PROTOCOLS.items()]
    if what == "studies":
        from retorq.study import NAMES

        return list(NAMES.items())
    from retorq.envs.listing import environments

    return environments()


def bench(words: list[str]) -> int:
    """Measure this machine."""
    from retorq.bench import run

    return run(words)


def study(words: list[str]) -> int:
    """Train variants of agents over several seeds and compare them."""
    from retorq.study import run

    return run(words)


def doctor(words: list[str]) -> int:
    """Look at this installation, or try an environment."""

    def command(env: tyro.conf.Positional[str | None] = None) -> int:
        """Look at this installation; with ENV, try that environment.

        Args:
            env: The environment to try.
        """
        if env is None:
            for line in _installation():
                print(line)
            return 0
        from retorq.envs.make import check

        findings = check(env)
        for good, sentence in findings:
            print(f"{'ok ' if good else 'BAD'} {sentence}")
        return 0 if all(good for good, _ in findings) else UserError.exit_code

    return tyro.cli(command, args=words, prog="retorq doctor")


def _installation() -> list[str]:
    import psutil
    import torch

    from retorq.running.folder import versions
    from retorq.running.plan import size

    lines = [f"{name:<12}{value}" for name, value in versions().items()]
    lines.append(f"{'memory':<12}{size(psutil.virtual_memory().available)} free")
    lines.append(f"{'threads':<12}{torch.get_num_threads()}")
    lines.append(
        f"{'cuda':<12}{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU that PyTorch can use'}"
    )
    capability = torch.backends.cpu.get_cpu_capability()
    lines.append(f"{'processor':<12}{capability}")
    return lines
