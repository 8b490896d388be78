"""Stopping politely: the first Ctrl-C, SIGTERM or SIGHUP (the terminal is gone) asks the loop to finish its step.

A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTICE = "finishing this step and saving; Ctrl-C again to stop at once"


class StopSignal:
    """True from the first SIGINT, SIGTERM or SIGHUP on, while it is entered.

    The handler only sets a flag: the loop finishes its step, saves, and leaves with exit code 75 (resumable). A second
    SIGINT raises ``KeyboardInterrupt`` wherever the program is (a checkpoint being written is left unfinished, the
    earlier ones are whole), and from then on the handlers that were there before answer. Repeated SIGTERM changes
    nothing, because launchers repeat it. A SIGHUP that is ignored (``nohup``) stays ignored. Signals reach the main
    thread only; entered in another one, this stays False unless ``set`` is called.

    Args:
        notice: Gives the bytes that answer the first Ctrl-C on the standard error stream, for whoever draws there.
    """

    def __init__(self, notice: Callable[[str], bytes] | None = None) -> None:
        self.name = ""
        self._notice = notice or plain_notice
        self._stop = False
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    def set(self, name: str = "request") -> None:
        """Ask the loop to stop, as a signal would."""
        self._stop, self.name = True, self.name or name

    def __bool__(self) -> bool:
        return self._stop

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            # A hangup that is ignored stays ignored: whoever said nohup wants the program to go on.
            asked = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in asked}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.set(signal.Signals(number).name)
        if number == signal.SIGHUP:
            _leave_terminal()
        if number != signal.SIGINT:
            return
        self._interrupts += 1
        if self._interrupts > 1:
            self._restore()
            raise KeyboardInterrupt("stopped at once by the second Ctrl-C, without saving; the last checkpoint stands")
        # print() is not safe inside a handler; a raw write is.
        os.write(2, self._notice(NOTICE))

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            # None: it was installed by C code, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _leave_terminal() -> None:
    """Let nothing be written to a terminal that is gone: it would fail, and saving comes next."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def plain_notice(text: str) -> bytes:
    """A line of its own, whatever the terminal has echoed before it."""
    return f"\n{text}\n".encode()
