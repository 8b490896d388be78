"""Words become the fields of a dataclass, or one sentence that says what is wrong with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from retorq.arguments import first, read, told
from retorq.types import UserError


@dataclass(frozen=True)
class Part:
    """Some settings."""

    share: float = 0.5
    loud: bool = False


@dataclass(frozen=True)
class Asked:
    """A command."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT")]
    more: tyro.conf.Positional[tuple[int, ...]] = ()
    number: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    out: Path | None = None
    quick: bool = True
    part: Part = field(default=Part())
    flat: Annotated[Part, tyro.conf.OmitArgPrefixes] = field(default=Part())


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("x", {}),
        ("--number 3 x 4 5", {"number": 3, "more": (4, 5)}),
        ("x --number=-3", {"number": -3}),
        ("x 4 --number -3 5", {"number": -3, "more": (4, 5)}),
        ("x --number None", {"number": None}),
        ("x --sizes 7 8 --kind b", {"sizes": (7, 8), "kind": "b"}),
        ("--sizes=7 x", {"sizes": (7,)}),
        ("x --sizes", {"sizes": ()}),
        ("x --no-quick --out a/b", {"quick": False, "out": Path("a/b")}),
        ("x --part.share 1e-3 --part.loud", {"part": Part(0.001, True)}),
        ("x --part.no-loud --share -2", {"flat": Part(-2.0)}),
    ],
)
def test_words_become_fields(words, changes):
    assert read(Asked, words.split(), "do") == Asked(**{"what": "x"} | changes)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "WHAT is missing; give it as the first word, as in: do WHAT (do --help)."),
        ("--quick", "WHAT is missing"),
        ("x --nummber 3", "option --nummber does not exist; perhaps you meant --number (do --help lists all)."),
        ("x --part.laud", "option --part.laud does not exist; perhaps you meant --part.loud"),
        ("x --zzz", "option --zzz does not exist (do --help lists all)."),
        ("x -n 3", "option -n does not exist"),
        ("x --number", "--number has no value; give a whole number after it."),
        ("x --number --quick", "--number has no value"),
        ("x --number 3.5", "--number is '3.5'; give a whole number."),
        ("x --share much", "--share is 'much'; give a number."),
        ("x --sizes 3 x", "--sizes is 'x'; give whole numbers."),
        ("x --kind c", "--kind is 'c'; give one of a, b."),
        ("x y", "MORE is 'y'; give whole numbers."),
        ("x --number 1 --number 2", "--number is given twice; give it once."),
        ("x --quick --no-quick", "--no-quick is given twice; give it once."),
        ("x --quick=no", "--quick is a switch and takes no value, but 'no' is given; leave it out."),
        ("x --no-number 3", "option --no-number does not exist; perhaps you meant --number"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence):
    with pytest.raises(UserError) as error:
        read(Asked, words.split(), "do")
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(".")


def test_what_was_told_is_known_by_name():
    words = ["x", "--sizes", "7", "8", "--no-quick", "--part.share=1"]
    assert told(Asked, words, "do") == {"what": ["x"], "sizes": ["7", "8"], "quick": ["false"], "part.share": ["1"]}


def test_too_many_words():
    @dataclass(frozen=True)
    class One:
        """A command of one word."""

        word: tyro.conf.Positional[str | None] = None

    assert read(One, [], "do") == One()
    with pytest.raises(UserError, match="'b' is one word too many: do takes WORD and options"):
        read(One, ["a", "b"], "do")


def test_help_is_shown_whatever_else_is_wrong(capsys):
    with pytest.raises(SystemExit) as end:
        read(Asked, ["x", "--number", "no", "-h"], "do")
    assert end.value.code == 0
    assert "usage: do [-h] [OPTIONS] WHAT" in capsys.readouterr().out
    assert told(Asked, ["x", "--help", "--nonsense"], "do") == {"what": ["x"]}


def test_the_first_value_of_an_option():
    assert first(["a", "--n", "3", "--n=4"], "--n") == "3"
    assert first(["--n=4"], "--n") == "4"
    assert first(["--n"], "--n") is None
    assert first(["--nn", "3"], "--n") is None
