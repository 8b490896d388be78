"""The command line: ``retorq train | resume | eval | report | bench | study | cluster | list | doctor``.

Only the chosen command's modules are imported, so that ``retorq --help`` does not wait for torch; and nothing at all is
imported before ``main`` watches for Ctrl-C, since what comes next takes seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

USAGE = """\
usage: retorq COMMAND [arguments]

Value-based deep reinforcement learning with memory and return distributions.

commands
  train ENV     train an agent; the same command again goes on with a stopped run
  resume RUN    go on with a stopped run
  eval RUN      play whole games by a named protocol; scores, interval, video
  report RUN... one self-contained page: curves, scores, settings, video
  bench WHAT    measure this machine: learner, acting, end-to-end, replay, memory, unroll
  study NAME    variants of agents on small tasks, several seeds, with statistics
  cluster WHAT  head or worker: several hosts for one run (docs/scaling.md)
  list WHAT     agents, envs, protocols or studies
  doctor [ENV]  look at this installation, or try an environment

ENV is a Gymnasium id (ALE/Pong-v5, CartPole-v1), a built-in toy (catch, memory), or module:Class of your own.
'retorq COMMAND --help' tells a command's options.

exit codes: 0 done, 2 usage, 3 refused, 4 diverged, 75 stopped and resumable, 130 interrupted before anything was to be
saved, or twice
"""

INTERRUPTED, INTERRUPTED_BY = 130, "interrupted by Ctrl-C; what was saved before is untouched"
COMMANDS = ("train", "resume", "eval", "report", "bench", "study", "cluster", "list", "doctor")
SLOW = {"train": "preparing to train", "resume": "preparing to go on", "eval": "loading the agent"}
"""What is said at once of commands that are silent for seconds otherwise."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; a mistake or a Ctrl-C is one sentence, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    with _watched():
        code = _run(words)
    if argv is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything is said; what is left is to go
    sys.exit(code)


def _run(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except KeyboardInterrupt as error:
        sys.stdout.flush()
        print(_line(str(error) or INTERRUPTED_BY), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody left to tell
        return 0
    except Exception as error:
        from retorq.types import UserError

        if not isinstance(error, UserError):
            raise
        sys.stdout.flush()
        print(f"retorq: {error}", file=sys.stderr)
        return error.exit_code


@contextmanager
def _watched() -> Iterator[None]:
    """End at once at a Ctrl-C, unless whoever has something to save (``running.signals``) waits for it.

    An exception would do in Python, but a library that is being imported may make another error of it, or crash.
    """
    before = signal.getsignal(signal.SIGINT)
    with suppress(ValueError):  # not in the main thread
        if before is signal.default_int_handler:  # it is ignored in the background
            signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupted:
            signal.signal(signal.SIGINT, before)


def _interrupted(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.write(2, f"{_line(INTERRUPTED_BY)}\n".encode())  # what is buffered may be what was just being written
    os._exit(INTERRUPTED)


def _line(sentence: str) -> str:
    """A line that takes the place of the ``^C`` that a terminal shows."""
    return ("\r" if os.isatty(2) else "") + f"retorq: {sentence}"


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        from retorq import __version__

        print(f"retorq {__version__}")
        return 0
    command, *rest = words
    commands = _commands()
    if command not in commands:
        from difflib import get_close_matches

        from retorq.types import UserError

        near = get_close_matches(command, commands, n=1, cutoff=0.0)[0]
        raise UserError(f"command is {command!r}, which does not exist; perhaps you meant {near!r} (retorq --help).")
    if command in SLOW and not {"-h", "--help", "--json"} & set(rest):
        print(f"{'starting':>20}  {SLOW[command]}", flush=True)
    return commands[command](rest)


def _commands() -> dict[str, Callable[[list[str]], int]]:
    def lazily(name: str) -> Callable[[list[str]], int]:
        def run(rest: list[str]) -> int:
            from retorq import commands

            chosen: Callable[[list[str]], int] = getattr(commands, name)
            return chosen(rest)

        return run

    functions = {"eval": "evaluate", "list": "show"}
    return {name: lazily(functions.get(name, name)) for name in COMMANDS}


if __name__ == "__main__":
    main()
