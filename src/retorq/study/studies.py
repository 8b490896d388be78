"""The studies, by name, as data. Each number's reason stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retorq.study.design import Study, Task, Variant

# Rainbow and what it is made of

EPSILON = {"dqn": ("epsilon_start", "epsilon_final", "epsilon_steps")}  # what explores where no noise does
LIKE_RAINBOW: dict[str, tuple[str, ...]] = {"rainbow": ()}

RAINBOW_ABLATIONS = Study(
    name="rainbow-ablations",
    summary="Rainbow, Rainbow without each of its parts, and plain DQN (Hessel et al. 2018, figure 3)",
    # 100,000 steps are enough for differences in speed to show; the game is not mastered in them.
    tasks=(Task(name="minatar_breakout", env="MinAtar/Breakout-v1", steps=100_000, preset="minatar", chance=0.5),),
    fallback=Task(name="catch", env="catch", steps=6_000, preset="toy", chance=-0.6, best=1.0),
    variants=(
        Variant(name="rainbow", agent="rainbow"),
        Variant(name="no double", agent="rainbow", settings={"double": False}),
        Variant(name="no dueling", agent="rainbow", settings={"dueling": False}),
        Variant(name="no priorities", agent="rainbow", settings={"prioritized": False}),
        Variant(name="1-step", agent="rainbow", settings={"n_step": 1}),
        Variant(name="no distribution", agent="dqn", borrow=LIKE_RAINBOW),
        Variant(name="no noise", agent="rainbow", settings={"noisy": False}, borrow=EPSILON),
        Variant(name="dqn", agent="dqn"),
    ),
    reference="rainbow",
    seeds=3,
)

# Where the memory of a replayed sequence starts

# The settings under which a stored state decides (windows shorter than what must be remembered): uniform replay,
# since whole games cannot have priorities, and a batch of 32 sequences every 4 steps.
MEMORY_AGENT: dict[str, Any] = {
    "num_envs": 8,
    "memory_size": 64,
    "hidden_size": 64,
    "prioritized": False,
    "batch_size": 32,
    "gamma": 0.99,
    "n_step": 5,
    "learning_rate": 1e-3,
    "optimizer_epsilon": 1e-8,
    "time_reduction": "mean",
    "target_period": 200,
    "replay_size": 10_000,  # of 50,000, most stored states are so old that they are of no use
    "warmup": 1_000,
    "epsilon_steps": 4_000,
}


def _short_windows(length: int, period: int) -> dict[str, Any]:
    """Windows of ``length`` rows that start every ``period`` rows, burn-in of a period, an update every 4 steps."""
    return MEMORY_AGENT | {
        "sequence_length": length,
        "state_period": period,
        "burn_in": period,
        "replay_ratio": 32 * length / 4,
    }


START_STATE = Study(
    name="start-state",
    summary="R2D2 with five ways to start the memory of a replayed sequence (Kapturowski et al. 2019, section 3)",
    tasks=(
        Task(
            name="recall 10",
            env="memory",
            kwargs={"length": 10},
            steps=30_000,
            preset="toy",
            settings=_short_windows(6, 5),
            chance=0.0,
            best=1.0,
        ),
        Task(
            name="tmaze 10",
            env="tmaze",
            kwargs={"corridor": 10},
            steps=40_000,
            preset="toy",
            settings=_short_windows(6, 5),
            chance=1.95,
            best=4.0,
        ),
        Task(
            name="one-row catch",
            env="catch",
            kwargs={"shown": 1},
            steps=40_000,
            preset="toy",
            settings=_short_windows(5, 4),
            chance=-0.6,
            best=1.0,
        ),
        # Two rows tell a velocity, so windows hold all that is needed; games of hundreds of rows leave room for any
        # burn-in. Rewards have to travel as far as in benchmarks/learning.py.
        Task(
            name="masked cartpole",
            env="masked_cartpole",
            steps=60_000,
            preset="toy",
            settings=_short_windows(11, 10)
            | {"elapsed_time": False, "n_step": 10, "gamma": 0.997, "rescale_epsilon": 1e-3, "replay_size": 20_000},
            chance=22.0,
            best=500.0,
        ),
    ),
    variants=tuple(
        Variant(name=way, agent="r2d2", settings={"start_state": way})
        for way in ("whole", "zero", "stored", "zero+burn_in", "stored+burn_in")
    ),
    reference="stored+burn_in",
    seeds=5,
    burn_ins=(0, 10, 20, 40),
)

# What it does that stored states are computed anew

STATE_REFRESH = Study(
    name="state-refresh",
    summary="R2D2 from stored states, which are computed anew with the present weights while training, or not",
    tasks=tuple(task for task in START_STATE.tasks if task.name in ("recall 10", "masked cartpole")),
    variants=(
        Variant(name="never", agent="r2d2", settings={"start_state": "stored"}),
        # As many rows as are trained: with a replay of 10,000 steps and 48 rows trained per step, every state about
        # once in 210 steps.
        Variant(name="refresh 1", agent="r2d2", settings={"start_state": "stored", "refresh": 1.0}),
    ),
    reference="never",
    seeds=3,
    burn_ins=(0, 10),
)

STUDIES: Mapping[str, Study] = {study.name: study for study in (RAINBOW_ABLATIONS, START_STATE, STATE_REFRESH)}
