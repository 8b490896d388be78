"""Studies are data: every variant of every study is what its name says, and composes."""

from dataclasses import fields
from pathlib import Path

import pytest

from retorq import algorithms
from retorq.study import NAMES
from retorq.study.design import Task, Variant, chosen, jobs, slug
from retorq.study.studies import RAINBOW_ABLATIONS, START_STATE, STUDIES
from retorq.study.work import check
from retorq.types import UserError

TASKS = [*RAINBOW_ABLATIONS.tasks, RAINBOW_ABLATIONS.fallback]


def config(variant, task):
    module = algorithms.load(variant.agent)
    base = module.PRESETS[task.preset]()
    return {f.name: getattr(base, f.name) for f in fields(base)} | variant.on(task)


def test_the_list_names_every_study_and_counts_its_runs():
    assert set(NAMES) == set(STUDIES)
    for name, study in STUDIES.items():
        assert name == study.name
        assert study.reference in [variant.name for variant in study.variants]
        assert f"; {len(study.tasks) * len(study.variants) * study.seeds} runs" in NAMES[name]


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_variant_composes_and_folders_differ(study, tmp_path):
    tasks = [task for task in (*study.tasks, study.fallback) if task and not task.env.startswith("MinAtar")]
    made = jobs(tasks, study.variants, 2, tmp_path)
    check(made)
    assert len({job.path for job in made}) == len(made) == 2 * len(tasks) * len(study.variants)
    assert len({job.title for job in made}) == len(made)
    assert [job.seed for job in made] == [0] * (len(made) // 2) + [1] * (len(made) // 2)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_each_ablation_changes_its_part_and_nothing_else(task):
    full, *others = RAINBOW_ABLATIONS.variants
    rainbow = config(full, task)
    parts = {
        "no double": {"double"},
        "no dueling": {"dueling"},
        "no priorities": {"prioritized"},
        "1-step": {"n_step"},
        "no distribution": set(),
        "no noise": {"noisy", "epsilon_start", "epsilon_final", "epsilon_steps"},
    }
    for variant in others[:-1]:
        ablated = config(variant, task)
        both = rainbow.keys() & ablated.keys()
        differing = {name for name in both if rainbow[name] != ablated[name]}
        # The decay's length is without effect where there is no epsilon.
        assert differing - {"epsilon_steps"} == parts[variant.name] - {"epsilon_steps"}, variant.name
        assert (rainbow.keys() - ablated.keys() == {"atoms", "lowest_value", "highest_value"}) == (
            variant.agent == "dqn"
        )
    usual = config(Variant(name="dqn", agent="dqn"), task)
    without_noise = config(others[5], task)
    for name in parts["no noise"]:
        assert without_noise[name] == usual[name]
    assert config(others[-1], task) == usual


def test_windows_are_shorter_than_what_must_be_remembered():
    needed = {"recall 10": 10, "tmaze 10": 10, "one-row catch": 8}
    for task in START_STATE.tasks:
        if task.name == "masked cartpole":  # the one that is there for its long games
            assert task.settings["sequence_length"] > 2
            continue
        assert task.settings["sequence_length"] + task.settings["n_step"] < needed[task.name] + task.settings["n_step"]
        assert task.settings["sequence_length"] <= needed[task.name] * 2 / 3
        # Delta-Q is measured at both ends of the learned rows only if they lie on the grid of stored states.
        assert (task.settings["sequence_length"] - 1) % task.settings["state_period"] == 0
    assert [v.settings["start_state"] for v in START_STATE.variants] == [v.name for v in START_STATE.variants]


def test_settings_are_put_on_top_of_each_other_in_order():
    task = Task(
        name="t",
        env="catch",
        steps=1,
        preset="toy",
        settings={"gamma": 0.5, "n_step": 2},
        of_agent={"dqn": {"n_step": 4}, "rainbow": {"n_step": 7}},
    )
    assert Variant(name="v", agent="dqn").on(task) == {"gamma": 0.5, "n_step": 4}
    assert Variant(name="v", agent="rainbow", settings={"gamma": 0.7}).on(task) == {"gamma": 0.7, "n_step": 7}
    borrowed = Variant(name="v", agent="dqn", borrow={"rainbow": ("n_step", "dueling")}, settings={"gamma": 0.9}).on(
        task
    )
    assert borrowed == {"gamma": 0.9, "n_step": 7, "dueling": True}
    everything = Variant(name="v", agent="dqn", borrow={"rainbow": ()}).on(task)
    assert (everything["noisy"], everything["n_step"], everything["gamma"]) == (True, 7, 0.5)
    assert "atoms" not in everything


def test_names_are_refused_with_the_nearest_one():
    assert [task.name for task in chosen("tasks", START_STATE.tasks, [])] == [task.name for task in START_STATE.tasks]
    assert [v.name for v in chosen("variants", START_STATE.variants, ["zero", "whole"])] == ["zero", "whole"]
    with pytest.raises(
        UserError, match="variants names 'sored', which this study does not have; perhaps you meant 'stored'"
    ):
        chosen("variants", START_STATE.variants, ["sored"])


def test_a_name_as_part_of_a_path():
    assert slug("MinAtar/Breakout-v1") == "MinAtar-Breakout-v1"
    assert slug("no double") == "no-double"
    assert slug("../..") == "x"
    assert Path("a") / slug("/etc") == Path("a/etc")
