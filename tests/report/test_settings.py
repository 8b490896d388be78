"""Settings on the page: only what can have an effect, what differs apart from what is shared."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from retorq.envs.options import ATARI_FIELDS, GYM_FIELDS, MINATAR_FIELDS, TOY_FIELDS, EnvOptions
from retorq.report.runs import Run
from retorq.report.settings import settings_tables


def run(env: str, options: EnvOptions | None = None, **config: object) -> Run:
    stored = {"env": env, "options": asdict(options or EnvOptions()), "config": {"n_step": 3, **config}, "id": "x"}
    return Run(path=Path("r"), env=env, config=stored)


@pytest.mark.parametrize(
    ("env", "fields"),
    [
        ("catch", TOY_FIELDS),
        ("MinAtar/Breakout-v1", MINATAR_FIELDS),
        ("ALE/Pong-v5", ATARI_FIELDS),
        ("CartPole-v1", GYM_FIELDS),
        ("module:Class", GYM_FIELDS),
    ],
)
def test_only_options_of_the_environment_are_shown(env: str, fields: frozenset[str]) -> None:
    text = settings_tables([run(env)])
    shown = set(re.findall(r"<dt>(\w+)</dt>", text))
    assert shown & set(asdict(EnvOptions())) == fields
    assert {"n_step", "env", "id"} <= shown
    assert [text.index(word) for word in ("Agent and training", "Environment", "Run</h3>")] == sorted(
        text.index(word) for word in ("Agent and training", "Environment", "Run</h3>")
    )


def test_an_option_that_was_set_is_shown_whatever_the_environment() -> None:
    assert "frame_size" in settings_tables([run("catch", EnvOptions(frame_size=42))])


def test_what_is_in_effect_is_shown_where_the_run_wrote_it_down() -> None:
    told = run("CartPole-v1", EnvOptions(kwargs='{"sutton_barto_reward": true}'))
    told.config["environment"] = {"workers": "0", "flicker": 0.0, "autoreset": "NextStep"}
    text = settings_tables([told])
    shown = dict(re.findall(r"<dt>(\w+)</dt><dd>(.*?)</dd>", text[text.index("Environment") : text.index("Run</h3>")]))
    assert shown == {
        "workers": "0",
        "flicker": "0.0",
        "autoreset": "NextStep",
        "kwargs": "{&quot;sutton_barto_reward&quot;: true}",
    }


def test_what_differs_stands_apart() -> None:
    text = settings_tables([run("catch"), run("catch", n_step=5)])
    assert "config.n_step</th><td>3</td><td>5</td>" in text
    assert "<dt>n_step</dt>" not in text
    assert "the same in all runs" in text
    assert settings_tables([Run(path=Path("r"))]) == '<p class="empty">None stored.</p>'
