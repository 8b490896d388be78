"""``retorq report``, ``list``, ``doctor``, and the doors to ``bench`` and ``study``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from retorq.arguments import read
from retorq.commands import program
from retorq.types import UserError


@dataclass(frozen=True)
class _Report:
    """Write one self-contained page: curves, scores, settings, video."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")]
    """Run folders; runs of one agent on one environment are drawn together."""
    out: Path | None = None
    """The page; None: report.html in the first run's folder."""


def report(words: list[str]) -> int:
    """Write one page about one or more runs."""
    asked = read(_Report, words, program.command("report"))
    from retorq.report.page import write_report
    from retorq.report.runs import new_folder

    out = asked.out or asked.runs[0] / "report.html"
    folder = new_folder(out)
    written = write_report(list(asked.runs), out)
    print(f"written to {written}{folder}")
    return 0


@dataclass(frozen=True)
class _List:
    """List agents, environments, evaluation protocols or studies."""

    what: Annotated[
        tyro.conf.Positional[Literal["agents", "envs", "protocols", "studies"]], tyro.conf.arg(metavar="WHAT")
    ]
    """What to list: agents, envs, protocols or studies."""
    all: bool = False
    """envs: name every game of every installed family, not only how many there are."""


def show(words: list[str]) -> int:
    """List what there is."""
    asked = read(_List, words, program.command("list"))
    if asked.all and asked.what != "envs":
        raise UserError(f"--all is given, but the list of {asked.what} is always whole; leave it out.")
    for name, about in _listed(asked.what, everything=asked.all):
        print(f"{name:<32}{about}")
    return 0


def _listed(what: str, *, everything: bool) -> list[tuple[str, str]]:
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
    from retorq.envs.listing import environments, games

    return games() if everything else environments()


def bench(words: list[str]) -> int:
    """Measure this machine."""
    from retorq.bench import run

    return run(words)


def study(words: list[str]) -> int:
    """Train variants of agents over several seeds and compare them."""
    from retorq.study import run

    return run(words)


@dataclass(frozen=True)
class _Doctor:
    """Look at this installation; with ENV, try that environment."""

    env: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="ENV")] = None
    """The environment to try (retorq list envs)."""


def doctor(words: list[str]) -> int:
    """Look at this installation, or try an environment."""
    asked = read(_Doctor, words, program.command("doctor"))
    if asked.env is None:
        for line in _installation():
            print(line)
        return 0
    from retorq.envs.make import check

    findings = check(asked.env)
    for good, sentence in findings:
        print(f"{'ok ' if good else 'BAD'} {sentence}")
    return 0 if all(good for good, _ in findings) else UserError.exit_code


def _ray() -> str:
    """Its version, without loading it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ray")
    except PackageNotFoundError:
        return "not installed (extra dist)"


def _installation() -> list[str]:
    import psutil
    import torch

    from retorq.running.folder import versions
    from retorq.running.plan import size

    lines = [f"{name:<12}{value}" for name, value in versions().items()]
    lines.append(f"{'ray':<12}{_ray()}")
    lines.append(f"{'memory':<12}{size(psutil.virtual_memory().available)} free")
    lines.append(f"{'threads':<12}{torch.get_num_threads()}")
    lines.append(
        f"{'cuda':<12}{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU that PyTorch can use'}"
    )
    capability = torch.backends.cpu.get_cpu_capability()
    lines.append(f"{'processor':<12}{capability}")
    return lines
