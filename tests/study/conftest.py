"""A study small enough to be run in a test, and folders of runs that look as if they had been made."""

import json

import pytest
from tests.study.small import SMALL

from retorq.study.design import Study, Task, Variant, jobs


@pytest.fixture
def small():
    tasks = (
        Task(
            name="recall 3",
            env="memory",
            kwargs={"length": 3},
            steps=200,
            preset="toy",
            settings=SMALL,
            chance=0,
            best=1,
        ),
        Task(
            name="maze", env="tmaze", kwargs={"corridor": 2}, steps=200, preset="toy", settings=SMALL, chance=2, best=4
        ),
    )
    variants = tuple(
        Variant(name=way, agent="r2d2", settings={"start_state": way}) for way in ("zero", "stored", "stored+burn_in")
    )
    return Study(
        name="small", summary="A test", tasks=tasks, variants=variants, reference="stored", seeds=2, burn_ins=(0, 2)
    )


def pretend(job, score, curve=()):
    """A run folder with an evaluation and a curve, without any training."""
    (job.path / "eval").mkdir(parents=True)
    record = {"mean": score, "scores": [score - 1, score + 1], "episodes": 2, "step": job.task.steps}
    (job.path / "eval" / "200-greedy.json").write_text(json.dumps(record))
    lines = [
        json.dumps({"step": 100 * i, "updates": i, "seconds": 6.0 * i, "score_mean": y}) for i, y in enumerate(curve)
    ]
    (job.path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


@pytest.fixture
def pretended(small, tmp_path):
    """All jobs of the small study, done; the score is 10 times the seed plus the variant's number."""
    made = jobs(small.tasks, small.variants, 2, tmp_path)
    order = [variant.name for variant in small.variants]
    for job in made:
        number = order.index(job.variant)
        pretend(job, 10.0 * job.seed + number, [0.0, 1.0 + number, 2.0 + number])
    return made
