"""An environment that fails is replaced alone, and told: one line, counted, by its column of the run."""

import pytest
from tests.acting import elsewhere
from tests.acting.test_pools import gathered, importable, watch  # noqa: F401
from tests.acting.test_supervised import Still

from retorq.acting.pools import LocalPool
from retorq.acting.processes import ProcessPool
from retorq.acting.ray_pool import RayPool
from retorq.acting.remote import Player, Recipe

COLUMNS = 4
LINE = "environment {} {}; its game was cut and it was replaced"
DID = {
    "raise": "raised RuntimeError: the bridge fell down",
    "die": "ended its process with exit code 7",
    "hang": "gave no answer within 8 s (env.step_time_limit)",
}
FAULTS = [
    pytest.param((pool, what), marks=[pytest.mark.slow] * (what == "hang"), id=f"{pool}-{what}")
    for pool, whats in (("local", ["raise"]), ("process", DID), ("ray", DID))
    for what in whats
]


def shares(falls, never, what="raise"):
    """Two actors of two columns each, of which an environment of the second fails."""
    return [
        Recipe(
            entry="tests.acting.elsewhere:falling",
            arguments={"columns": 2, "marker": str(marker), "what": what},
            first=first,
            columns=2,
            rows=5,
        )
        for first, marker in ((0, never), (2, falls))
    ]


@pytest.fixture(params=FAULTS)
def build(request, tmp_path):
    """Makes pools in which one environment fails once, and says what is told of it; all are closed in the end."""
    kind, what = request.param
    falls, never = tmp_path / "falls", tmp_path / "never"
    never.touch()
    made = []
    over = request.getfixturevalue("watch") if kind == "ray" else None

    def build():
        of, network = shares(falls, never, what), elsewhere.Weighted(2)
        if kind == "local":
            made.append(LocalPool(elsewhere.falling(columns=COLUMNS, seed=0, marker=str(falls))))
        elif kind == "process":
            made.append(ProcessPool(of, network, bytes_per_row=1_600))
        else:
            made.append(RayPool(of, network, bytes_per_row=1_600, watch=over))
        made[-1].publish(network, 0)
        return made[-1], DID[what]

    yield build
    for pool in made:
        pool.close()


def test_an_environment_that_is_replaced_alone_is_told_in_one_line_and_counted(build):
    """Also after a resume; its game is cut, and no actor is replaced."""
    pool, did = build()
    assert pool.told() == {}
    _, told = gathered(pool, 40)
    failed = int(told[0].split()[1]) if told else -1
    assert failed in ({0} if isinstance(pool, LocalPool) else {2, 3})
    assert told == [LINE.format(failed, did)]
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
    assert told == [[(2, LINE.removeprefix("environment {} ").format(DID["raise"]))], [], []]
