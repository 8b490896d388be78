"""What --help says: a line for every option of every command, in words of its user."""

import re
from dataclasses import fields

import pytest
from tests.small import command

from retorq import algorithms, cli
from retorq.algorithms.help import GROUPS, HELP

COMMANDS = [(name,) for name in cli.COMMANDS if name != "train"]
COMMANDS += [("train", "--agent", agent) for agent in algorithms.AGENTS]
COMMANDS += [("cluster", "head"), ("cluster", "worker")]


OPTION = re.compile(r"(-h, --help|--[a-z][\w.-]+)(?:, --\S+)?(?: (?:\[.*?\]\]|\{.*?\}\S*|[A-Z]\S*))?(?= |$)")


def told(text):
    """Option: what is said of it, without frames."""
    found, name = {}, ""
    for line in text.splitlines():
        line = line.strip("│| ")
        if set(line) <= set("-+╭╰─╮╯"):
            continue
        if match := OPTION.match(line):
            name, line = match[1], line[match.end() :]
            found[name] = ""
        if name:
            found[name] = f"{found[name]} {line}".strip()
    return {name: " ".join(words.split()) for name, words in found.items()}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[-1])
def test_every_option_has_a_line(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = command(*words, "--help")
    assert code == 0
    lines = {name: line.split("(default: ")[0] for name, line in told(out).items()}
    assert "-h, --help" in lines
    assert {name: line for name, line in lines.items() if len(line.split()) < 2} == {}
    strangers = re.compile(
        r"(?i)\brltime|\bours\b|actor_envs|eps_\w+|nstep|mbatch|num_sampling|lr_anneal|\bdocs?\b|Config\b|``"
    )
    assert [line for line in lines.values() if strangers.search(line)] == []


@pytest.mark.parametrize("agent", algorithms.AGENTS)
def test_every_setting_is_in_the_help_with_its_values_by_preset(agent, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    module = algorithms.load(agent)
    lines = told(command("train", "--agent", agent, "--help")[1])
    texts = {name: text for group in HELP.values() for name, text in group.items()}
    for field in fields(module.Config):
        flag = "--" + field.name.replace("_", "-")
        line = lines[flag]
        assert texts[field.name] in line
        values = {preset: getattr(make(), field.name) for preset, make in module.PRESETS.items()}
        differ = len(set(values.values())) > 1
        assert (f" [{next(iter(values))} " in line) is differ
        if differ and isinstance(values["toy"], int):
            assert all(f"{preset} {value}" in line for preset, value in values.items())


def test_the_lines_are_of_settings_that_exist_in_one_group_each():
    names = [name for group in HELP.values() for name in group]
    known = {field.name for agent in algorithms.AGENTS for field in fields(algorithms.load(agent).Config)}
    assert known - set(names) == set(), "each needs a line in algorithms/help.py"
    assert sorted(names) == sorted(known)
    assert GROUPS.keys() == HELP.keys()


def test_the_help_shows_the_defaults_of_the_environments_preset(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert "start from the preset 'toy'" in command("train", "memory", "--help")[1]
    for preset, steps in (("toy", 1_000), ("laptop", 5_000)):
        out = command("train", "memory", "--preset", preset, "--help")[1]
        assert told(out)["--warmup"].endswith(f"(default: {steps})")
