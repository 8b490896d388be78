"""An environment that fails is replaced alone, and told: one line, counted, by its column of the run."""

import pytest
from tests.acting import elsewhere
from tests.acting.test_pools import gathered, importable  # noqa: F401
from tests.acting.test_supervised import Still

from retorq.acting.pools import LocalPool
from retorq.acting.processes import ProcessPool
from retorq.acting.remote import Player, Recipe

COLUMNS = 4
LINE = "environment {} raised RuntimeError: the bridge fell down; its game was cut and it was replaced"


def shares(falls, never):
    """Two actors of two columns each, of which the environments of the second may fail."""
    return [
        Recipe(
            entry="tests.acting.elsewhere:falling",
            arguments={"columns": 2, "marker": str(marker)},
            first=first,
            columns=2,
            rows=5,
        )
        for first, marker in ((0, never), (2, falls))
    ]


@pytest.fixture(params=["local", "process"])
def build(request, tmp_path):
    """Makes pools in which one environment fails once, and says which; all are closed in the end."""
    falls, never = tmp_path / "falls", tmp_path / "never"
    never.touch()
    made = []

    def build():
        if request.param == "local":
            made.append(LocalPool(elsewhere.falling(columns=COLUMNS, seed=0, marker=str(falls))))
        else:
            made.append(ProcessPool(shares(falls, never), elsewhere.Weighted(2), bytes_per_row=1_600))
        made[-1].publish(elsewhere.Weighted(2), 0)
        return made[-1], {"local": 0, "process": 2}[request.param]

    yield build
    for pool in made:
        pool.close()


def test_an_environment_that_is_replaced_alone_is_told_in_one_line_and_counted(build):
    """Also after a resume; its game is cut, and no actor is replaced."""
    pool, failed = build()
    assert pool.told() == {}
    _, told = gathered(pool, 40)
    assert told == [LINE.format(failed)]
    assert pool.told() == {"environments_replaced": 1.0}
    assert pool.replaced == 0
    cut = [(episode.column, episode.length) for episode in pool.drain() if episode.cut]
    assert cut == [(failed, 2)]
    again, _ = build()
    again.load_state_dict(*pool.state_dict())
    assert (again.faults(), again.told()) == ([], {"environments_replaced": 1.0})


def test_a_message_tells_of_each_fault_once(tmp_path):
    (tmp_path / "never").touch()
    player = Player(shares(tmp_path / "falls", tmp_path / "never")[1], actor=1, incarnation=0, seed=0)
    player.weights = Still()
    told = [player.message().faults for _ in range(3)]
    player.close()
    assert told == [[(2, LINE.removeprefix("environment {} "))], [], []]
