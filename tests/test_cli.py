"""The command line: exit codes, one sentence per mistake, nearest names, and a light --help."""

import json
import subprocess
import sys
from importlib import metadata

import pytest
from tests.small import command, flags

import retorq
from retorq import cli
from retorq.types import Diverged, Refused, UserError


def short(path, *more):
    return ["train", "memory", "--run", path, *flags(), "--steps", "40", "--log-every", "20", "--threads", "1", *more]


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Its import takes seconds."""
    monkeypatch.setattr("retorq.running.log._has_tensorboard", lambda: False)


def test_help_and_version_do_not_wait_for_torch():
    code = "import sys; from retorq import cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit as e: print(e.code)\n"
    code += "print(sorted({'torch', 'tyro', 'gymnasium', 'numpy'} & set(sys.modules) - {'numpy'}))"
    for words, expected in ((["--help"], "exit codes: 0 done"), (["--version"], "retorq ")):
        run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert expected in run.stdout
        assert run.stdout.splitlines()[-2:] == ["0", "[]"]


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "retorq", "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, f"retorq {retorq.__version__}\n")
    run = subprocess.run([sys.executable, "-m", "retorq", "trian"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "perhaps you meant 'train'" in run.stderr


def test_every_command_is_in_the_help_and_has_its_own():
    code, out, _ = command("--help")
    assert code == 0
    for name in cli._commands():
        assert f"\n  {name} " in out
        code, told, _ = command(name, "--help")
        assert code == 0
        assert told
    assert command()[:2] == (0, out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "command is 'trian', which does not exist; perhaps you meant 'train'"),
        (["train", "memroy"], "env is 'memroy', which is not known; did you mean memory"),
        (["train", "CartPole-v9"], "did you mean CartPole-v1"),
        (["train", "memory", "--agent", "recurrent_iqm"], "perhaps you meant 'recurrent_iqn'"),
        (["train", "memory", "--preset", "latop"], "perhaps you meant 'laptop'"),
        (["train", "Pendulum-v1"], "the actions of Pendulum-v1 are numbers (a Box), but recurrent_iqn chooses"),
        (["train", "Pendulum-v1"], "use --agent apex_dpg, or wrap"),
        (["train", "catch", "--agent", "apex_dpg"], "catch has 3 Discrete actions, but those of apex_dpg are numbers"),
        (["train", "nowhere:Class"], "the module 'nowhere' cannot be imported"),
        (["train", "memory", "--gamma", "1.5"], "gamma is 1.5; give a number from 0 to 1"),
        (["train", "memory", "--num-envs", "0"], "num_envs is 0; give at least 1"),
        (["train", "memory", "--steps", "0"], "steps is 0; give at least 1"),
        (["train", "memory", "--dry-run", "--steps", 10**20], f"steps is {10**20}; give at most 1,000,000,000,000"),
        (["train", "CartPole-v1", "--env.resize", "10"], "env.resize is 10, which would do nothing: no part of"),
        (["train", "memory", "--log-every", "0"], "log_every is 0; give at least 1"),
        (["train", "memory", "--device", "gpu"], "device is 'gpu'; give cpu, cuda or cuda:N"),
        (["train", "memory", "--env.kwargs", "{"], "env.kwargs is '{', which is not JSON"),
        (["train", "memory", "--env.sticky", "0.2"], "memory cannot use that option"),
        (["train", "memory", "--replay-size", "20"], "replay_size is 20, too small"),
        (["resume", "nowhere"], "run 'nowhere' does not exist"),
        (["eval", "nowhere"], "run 'nowhere' does not exist"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_with_2(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*words)
    assert code == 2
    assert sentence in err
    assert err.startswith("retorq: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []  # a folder would refuse the corrected command


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "memory", "--gama", "0.9"], "option --gama does not exist; perhaps you meant --gamma"),
        (["train", "memory", "--samples", "many"], "--samples is 'many'; give a whole number."),
        (
            ["train", "memory", "--quantile-layer", "befor"],
            "--quantile-layer is 'befor'; give one of after, outer, inner",
        ),
        (["train", "memory", "--env.stiky", "1"], "option --env.stiky does not exist; perhaps you meant --env.sticky"),
        (["train", "memory", "--seed"], "--seed has no value; give a whole number after it."),
        (["train", "memory", "--agent"], "--agent has no value; give a text after it."),
        (["train", "memory", "--seed", "1", "--seed=2"], "--seed is given twice; give it once."),
        (["train", "memory", "catch"], "'catch' is one word too many: retorq train takes ENV and options"),
        (["train", "memory", "--dry-run=yes"], "--dry-run is a switch and takes no value, but 'yes' is given"),
        (["train"], "ENV is missing; give it as the first word, as in: retorq train ENV"),
        (["eval", "nowhere", "--episdes", "3"], "option --episdes does not exist; perhaps you meant --episodes"),
        (["eval", "nowhere", "--video", "-1"], "video is '-1'; give best, worst, median, another,"),
        (["report"], "RUN ... is missing"),
        (["list"], "WHAT is missing"),
        (["list", "agent"], "WHAT is 'agent'; give one of agents, envs, protocols, studies."),
        (["list", "agents", "--all"], "--all is given, but the list of agents is always whole; leave it out."),
        (["bench", "--out"], "--out has no value; give a path after it."),
        (["study"], "NAME is missing"),
        (["train", "memory", "--burn-in", "3"], "burn_in is 3, which would do nothing: start_state is 'stored'"),
        (
            ["train", "memory", "--publish-period", "3"],
            "publish_period is 3, which would do nothing: precision is fp32",
        ),
    ],
)
def test_words_that_do_not_exist_fit_or_help_are_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*words)
    assert code == 2
    assert sentence in err
    assert err.startswith("retorq: ")
    assert err.count("\n") == 1
    assert "│" not in out + err  # frames that tyro draws
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [UserError("x"), Refused("y"), Diverged("z"), KeyboardInterrupt()])
def test_exit_codes(error, monkeypatch):
    def fail(words):
        raise error

    monkeypatch.setattr(cli, "_commands", lambda: {"train": fail})
    codes = {UserError: 2, Refused: 3, Diverged: 4, KeyboardInterrupt: 130}
    code, _, err = command("train")
    assert code == codes[type(error)]
    said = "interrupted by Ctrl-C; what was saved before is untouched"
    assert err == f"retorq: {said if isinstance(error, KeyboardInterrupt) else error}\n"


@pytest.mark.parametrize("words", [["--steps", "70", "ALE/Pong-v5"], ["ALE/Pong-v5", "--steps", "70"]])
def test_the_preset_follows_the_environment_wherever_it_stands(words, tmp_path, monkeypatch):
    pytest.importorskip("ale_py")
    from retorq import api

    asked = {}

    def start(task, run, path, say, then):
        asked.update(preset=task.preset, columns=task.agent.columns, steps=run.steps)
        return api.Run(path, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "start", start)
    assert command("train", *words)[0] == 0
    assert asked == {"preset": "laptop", "columns": 8, "steps": 70}


def test_lists():
    code, out, _ = command("list", "envs")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert names[:2] == ["catch", "memory"]
    assert {"any", "module:Class"} <= set(names)
    assert len(names) < 20
    from retorq.envs import toys
    from retorq.envs.atari import game_names

    assert set(toys.names()) <= set(names)
    if games := game_names():
        assert f"{len(games)} games, such as ALE/Pong-v5; --all names them" in out
    code, out, _ = command("list", "envs", "--all")
    everything = [line.split()[0] for line in out.splitlines()]
    assert everything[: len(names)] == names
    assert {*toys.names(), *game_names()} <= set(everything)
    assert "recurrent_iqn" in command("list", "agents")[1]
    assert "machado_2018" in command("list", "protocols")[1]


def test_without_ale_py_the_list_says_how_to_get_it(monkeypatch):
    from retorq.envs import atari, listing

    monkeypatch.setattr(atari, "game_names", lambda: ())
    assert ("ALE/NAME-v5", "Atari 2600, not installed: pip install 'retorq[atari]'") in listing.environments()


def test_doctor(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError

    code, out, _ = command("doctor")
    assert code == 0
    assert "torch" in out
    assert any(line.startswith("ray         ") for line in out.splitlines())
    monkeypatch.setattr(metadata, "version", missing)
    assert "ray         not installed (extra dist)" in command("doctor")[1].splitlines()
    monkeypatch.undo()
    code, out, _ = command("doctor", "catch")
    assert code == 0
    assert all(line.startswith("ok ") for line in out.splitlines())
    assert command("doctor", "memroy")[0] == 2


def test_train_evaluate_and_go_on(tmp_path):
    """The whole way once: a run, its evaluation as words and as JSON, another config refused, a locked folder."""
    path = tmp_path / "run"
    code, out, err = command(*short(path))
    assert (code, err) == (0, "")
    told = out.splitlines()
    assert told[0].split(maxsplit=1) == ["starting", "preparing to train"]
    assert told[-4].startswith("done: 40 steps")
    assert told[-2:] == [f"checkpoint {path}/checkpoints/40", f"evaluate it with: retorq eval {path}"]
    code, out, _ = command("eval", path, "--episodes", "3")
    assert code == 0
    assert "playing at step 40 of 40 by protocol greedy: " in out
    assert "first 3 games started\n" in out
    assert "over 3 games, by protocol greedy at step 40 of 40\n" in out
    record = json.loads((path / "eval" / "40-greedy-3games.json").read_text())
    code, out, _ = command("eval", path, "--episodes", "3", "--json")
    assert json.loads(out) == record
    code, _, err = command("eval", path, "--protocol", "greedi")
    assert (code, "perhaps you meant 'greedy'" in err) == (2, True)

    code, _, err = command(*short(path, "--gamma", "0.5"))
    assert code == 3
    assert "config.gamma: 0.99 → 0.5" in err
    code, _, err = command("resume", tmp_path / "rum")
    assert (code, "perhaps you meant" in err) == (2, True)

    from retorq.running.folder import RunFolder

    with RunFolder.open(path):
        for words in (["resume", path], short(path)):
            code, _, err = command(*words)
            assert code == 3
            assert "is in use by process" in err
        assert command("eval", path, "--episodes", "1")[0] == 0  # looking is allowed

    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"format": 99}))
    for words in (["resume", path], short(path), ["eval", path]):
        code, _, err = command(*words)
        assert code == 3
        assert "has format 99, and this retorq reads up to" in err
        assert err.count("\n") == 1
