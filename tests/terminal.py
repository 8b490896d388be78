"""A terminal for tests: what a program in it is sent, and what its screen shows."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

TOKEN = re.compile(r"\x1b\[(?P<parameter>[\d;?]*)(?P<letter>[A-Za-z])|(?P<plain>[^\x1b])", re.DOTALL)


def screen(text: str) -> list[str]:
    """The lines that a terminal without end would show: text, returns, line breaks, and moves and erasures of rich."""
    lines, row, column = [""], 0, 0
    for token in TOKEN.finditer(text):
        letter, count = token["letter"], int(token["parameter"] or 1) if (token["parameter"] or "1").isdigit() else 0
        if letter == "A":
            row = max(0, row - count)
        elif letter == "K":
            lines[row] = ""
        elif letter is None and token["plain"] == "\r":
            column = 0
        elif letter is None and token["plain"] == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif letter is None:
            lines[row] = lines[row].ljust(column)[:column] + token["plain"] + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def in_terminal(words: list[str], typed: list[tuple[str, str]], *, limit: float = 120.0) -> tuple[int, list[str]]:
    """Run Python with these words; at each first sight of a text (in turn) type another. Exit code and screen."""
    child, descriptor = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it is ignored where the tests run in the background
        os.execvpe(sys.executable, [sys.executable, *words], os.environ | {"TERM": "xterm"})
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    seen, waiting, end = b"", list(typed), time.monotonic() + limit
    while time.monotonic() < end:
        if select.select([descriptor], [], [], 0.1)[0]:
            try:
                data = os.read(descriptor, 65536)
            except OSError:  # the program has gone
                break
            seen += data
        if waiting and waiting[0][0].encode() in seen:
            os.write(descriptor, waiting.pop(0)[1].encode())
    else:
        os.kill(child, signal.SIGKILL)
    os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen(seen.decode(errors="replace"))
