"""What a run says at its end: in order, once, and in the words of whoever started it."""

from pathlib import Path

from retorq.running.closing import Next, from_python, headless, lines, reason, unsaved, weightless

THEN = Next(resume="again", evaluate="look")


def test_the_reason():
    assert reason("", 2_000, 2_000, 150, 61.4) == "done: 2,000 steps, 150 updates in 0:01:01"
    assert reason("SIGINT", 1_500, 2_000, 9, 3.0) == (
        "stopped by Ctrl-C at step 1,500 of 2,000, 9 updates in 0:00:03; saving"
    )
    assert reason("SIGTERM", 1, 2, 0, 0.0).startswith("stopped by SIGTERM at step 1 of 2, ")


def test_the_lines_after_it():
    saved = Path("runs/x/checkpoints/40")
    told = list(lines((0.125, 7), saved, THEN, done=True))
    assert told == [
        "score 0.125, the mean of the last 7 training games",
        f"checkpoint {saved}",
        "evaluate it with: look",
    ]
    told = list(lines((-20.7, 1), saved, THEN, done=False))
    assert told == ["score -20.7, of one game", f"checkpoint {saved}", "go on with: again"]
    told = list(lines((None, 0), None, THEN, done=True, unsaved=unsaved(1_200)))
    assert told == [
        "no game was played to its end yet, so there is no score",
        "NOT saved, the checkpoint of step 1,200 stands",
        "go on with: again",
    ]


def test_from_python_it_is_python():
    assert from_python(Path("runs/x")) == Next(
        resume="retorq.resume('runs/x')", evaluate="retorq.load('runs/x').evaluate()"
    )


def test_without_a_head_nothing_is_said_to_be_saved_that_was_not():
    assert headless("Ray's head is gone", True, 1_200) == (
        "Ray's head is gone; what was learned was saved. Start the cluster and go on with the run."
    )
    assert headless("Ray's head is gone", False, 1_200) == (
        "Ray's head is gone; NOT saved, the checkpoint of step 1,200 stands. Start the cluster and go on with the run."
    )
    assert headless("Ray's head is gone", False, None) == (
        "Ray's head is gone; NOT saved, and there is no checkpoint yet. Start the cluster, and the same command begins "
        "anew."
    )


def test_without_weights_it_is_said_what_the_same_command_does():
    what = "parameter server 0 died, and the weights it held are gone"
    assert weightless(what, 0) == f"{what}; the same command goes on from the checkpoint of step 0."
    assert weightless(what, None) == f"{what}; there is no checkpoint yet: the same command begins anew."
