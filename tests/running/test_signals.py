"""Stop signals: the first asks, the second Ctrl-C ends."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading

import pytest

from retorq.running.signals import StopSignal


@pytest.fixture
def hangs_up():
    """A hangup is not ignored, as it is where the tests run under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_sets_the_flag_and_the_handlers_come_back(number, capfd, hangs_up):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with StopSignal() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.name == signal.Signals(number).name
    assert {n: signal.getsignal(n) for n in before} == before
    assert ("Ctrl-C again" in capfd.readouterr().err) == (number == signal.SIGINT)


def test_a_second_interrupt_ends_at_once():
    def interrupted_twice():
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.name == "SIGTERM"
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("not reached")

    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    with pytest.raises(KeyboardInterrupt, match="without saving; the last checkpoint stands"):
        interrupted_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_hangup_that_is_ignored_stays_ignored():
    """``nohup`` means that the program goes on without its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


GONE = """
import os, sys, time
from retorq.running.signals import StopSignal
with StopSignal() as stop:
    print("ready", flush=True)
    while not stop: time.sleep(0.01)
    for _ in range(3): print("nobody sees this", flush=True)
open(sys.argv[1], "w").write(stop.name)
"""


def test_when_the_terminal_goes_what_follows_is_done_nevertheless(tmp_path):
    master, slave = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", GONE, str(tmp_path / "saved")],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: (signal.signal(signal.SIGHUP, signal.SIG_DFL), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(slave)
    assert b"ready" in os.read(master, 100)
    os.close(master)
    assert program.wait(60) == 0
    assert (tmp_path / "saved").read_text() == "SIGHUP"


def test_whoever_draws_words_the_notice(capfd):
    with StopSignal(lambda text: f"<{text[:9]}>".encode()):
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "<finishing>"


def test_in_another_thread_it_stays_quiet_and_can_be_set():
    seen = []

    def work():
        with StopSignal() as stop:
            seen.append(bool(stop))
            stop.set()
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]
