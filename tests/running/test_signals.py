"""Stop signals: the first asks, the second Ctrl-C ends."""

import os
import signal
import threading

import pytest

from retorq.running.signals import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_flag_and_the_handlers_come_back(number, capfd):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
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
