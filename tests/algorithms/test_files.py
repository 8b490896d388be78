"""An algorithm is one short file, and the difference between two is the difference between their papers."""

import ast
import difflib
from pathlib import Path
from typing import get_type_hints

import pytest
from tests.algorithms.agents import MODULES

from retorq import algorithms

FOLDER = Path(algorithms.__file__).parent


def bare(path: Path) -> list[str]:
    """The lines of a file without the docstrings of the module and of Config."""
    text = path.read_text()
    tree = ast.parse(text)
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    words = [node.body[0] for node in (tree, config)]
    hidden = {line for node in words for line in range(node.lineno, node.end_lineno + 1)}
    return [line for number, line in enumerate(text.splitlines(), 1) if number not in hidden]


@pytest.mark.parametrize(("one", "other", "limit"), [("dqn", "c51", 25), ("dqn", "iqn", 25), ("drqn", "r2d2", 25)])
def test_the_difference_of_two_algorithms_is_small(one, other, limit):
    a, b = (bare(FOLDER / f"{name}.py") for name in (one, other))
    changes = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    assert sum(max(i - h, k - j) for kind, h, i, j, k in changes if kind != "equal") < limit


@pytest.mark.parametrize("agent", MODULES)
def test_an_algorithm_is_a_short_file(agent):
    lines = (FOLDER / f"{agent}.py").read_text().splitlines()
    assert len(lines) < (160 if agent == "recurrent_iqn" else 120)
    assert f"docs/algorithms/{agent}.md" in "\n".join(lines)


def test_a_name_means_the_same_in_every_agent():
    kinds = {}
    for module in MODULES.values():
        for name, hint in get_type_hints(module.Config).items():
            kinds.setdefault(name, set()).add(str(hint).replace("int | None", str(int)))
    assert {name: hints for name, hints in kinds.items() if len(hints) > 1} == {}
