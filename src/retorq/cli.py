"""The command line: ``retorq train | resume | eval | report | bench | study | list | doctor``.

Only the chosen command's modules are imported, so that ``retorq --help`` does not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from retorq.types import UserError

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
  list WHAT     agents, envs, protocols or studies
  doctor [ENV]  look at this installation, or try an environment

ENV is a Gymnasium id (ALE/Pong-v5, CartPole-v1), a built-in toy (catch, memory), or module:Class of your own.
'retorq COMMAND --help' tells a command's options.

exit codes: 0 done, 2 usage, 3 refused, 4 diverged, 75 stopped and resumable, 130 interrupted twice
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; a user's mistake is one sentence, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
    except UserError as error:
        sys.stdout.flush()
        print(f"retorq: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody left to tell
        code = 0
    sys.exit(code)


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
        near = get_close_matches(command, commands, n=1, cutoff=0.0)[0]
        raise UserError(f"command is {command!r}, which does not exist; perhaps you meant {near!r} (retorq --help).")
    return commands[command](rest)


def _commands() -> dict[str, Callable[[list[str]], int]]:
    def lazily(name: str) -> Callable[[list[str]], int]:
        def run(rest: list[str]) -> int:
            from retorq import commands

            chosen: Callable[[list[str]], int] = getattr(commands, name)
            return chosen(rest)

        return run

    functions = {"eval": "evaluate", "list": "show"}
    names = ("train", "resume", "eval", "report", "bench", "study", "list", "doctor")
    return {name: lazily(functions.get(name, name)) for name in names}


if __name__ == "__main__":
    main()
