"""What the documents state is what the program does: worked numbers, links, the machine-readable parts."""

import re
import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import torch

from retorq import algorithms, api, cli, commands
from retorq.envs.make import describe
from retorq.ops.returns import n_step
from retorq.running import train

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def table(page: Path, first_header: str) -> list[dict[str, str]]:
    """The rows of the table whose first column has that header."""
    lines = page.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_header} |") and "---" in lines[i + 1])
    names = [cell.strip() for cell in lines[start].strip("|").split("|")]
    rows = []
    bar = re.compile(r"(?<!\\)\|")
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, (cell.strip() for cell in bar.split(line.strip().strip("|"))), strict=True)))
    return rows


def test_the_worked_example_of_the_conventions() -> None:
    rows = table(ROOT / "docs" / "conventions.md", "row")

    words = {"yes": 1.0, "no": 0.0, "-": 0.0, "": 0.0}

    def column(name: str) -> torch.Tensor:
        cells = [row[name] for row in rows]
        return torch.tensor([[words[c] if c in words else float(c)] for c in cells], dtype=torch.float64)

    last, terminated = column("last").bool(), column("terminated").bool()
    discount = 0.9 * (~terminated).double()
    total, remaining, index = n_step(column("reward"), discount, last, 2)
    shown = [t for t, row in enumerate(rows) if row["R"] not in ("", "-")]
    assert shown == [t for t in range(len(rows) - 1) if not last[t]]
    for name, computed in (("R", total), ("g", remaining), ("index", index.double()), ("discount", discount)):
        torch.testing.assert_close(column(name)[shown], computed[shown], msg=lambda m, n=name: f"{n}: {m}")
    for t in range(1, len(rows)):
        begins = rows[t]["first"] == "yes"
        assert begins == (rows[t - 1]["last"] == "yes")
        assert rows[t]["elapsed"] == ("0" if begins else str(int(rows[t - 1]["elapsed"]) + 1))
        assert rows[t]["previous action"] == ("0" if begins else rows[t - 1]["action"])
        assert rows[t]["previous reward"] == ("0" if begins else rows[t - 1]["reward"])


STEMS = "optim|normal|priorit|maxim|minim|summar|vector|initial|general|quant|factor|real|recogn|organ|discret"


def test_the_spelling_is_american() -> None:
    """One stored name is exempt: the field of evaluations."""
    stored = r"(?!human_normalised)"
    words = rf"(?:{STEMS})is(?:e[drs]?|ing|ation)\b|colour|behaviour|favour|neighbour|grey\b"
    british = re.compile(rf"\b{stored}\w*(?:{words})", re.IGNORECASE)
    code = [file for part in ("src", "tests", "benchmarks") for file in sorted((ROOT / part).rglob("*.py"))]
    files = [file for file in (*PAGES, *code) if file != Path(__file__)]
    assert [(file.name, match[0]) for file in files for match in british.finditer(file.read_text())] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_pages_lead_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
    lost = [
        f"{target}#{name}" for target, name in links if name not in anchors(page.parent / target if target else page)
    ]
    assert lost == []


@pytest.mark.parametrize("agent", algorithms.AGENTS)
def test_the_published_configuration_is_the_default(agent: str) -> None:
    """A page shows each value that was published, and the first preset has the same; it names all other fields."""
    page = ROOT / "docs" / "algorithms" / f"{agent}.md"
    config = next(iter(algorithms.load(agent).PRESETS.values()))()
    rows = [row for row in table(page, "setting") if row["field"]]
    shown = [(name.strip("` "), row["value"]) for row in rows for name in row["field"].split(",")]
    words: dict[str, object] = {"on": True, "off": False, "as N": None}
    for name, text in shown:
        value = getattr(config, name)
        value = " ".join(map(str, value)) if isinstance(value, tuple) else value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        assert (float(text.replace(",", "")) if number else words.get(text, text)) == value, name
    others = re.search(r"^Fields without a published value: (.*?)\n\n", page.read_text(), re.DOTALL | re.MULTILINE)
    assert others is not None
    named = re.findall(r"`(\w+)`", others[1])
    assert sorted([name for name, _ in shown] + named) == sorted(field.name for field in fields(config))


def test_a_published_run_is_as_long_as_its_page_says() -> None:
    """Without ``--steps``, or the page names the flag that makes it so; some pages count other things than steps."""
    shown = {
        agent: (int(row["value"].replace(",", "")), row["remark"])
        for agent in algorithms.AGENTS
        for row in table(ROOT / "docs" / "algorithms" / f"{agent}.md", "setting")
        if row["setting"] == "steps"
    }
    assert {"recurrent_iqn", "dqn", "rainbow", "drqn"} < set(shown)
    for agent, (steps, remark) in shown.items():
        assert steps == api.STEPS["atari"] or f"`--steps {steps}`" in remark, agent


def test_the_page_of_all_agents_says_how_long_a_run_of_each_preset_is() -> None:
    rows = table(ROOT / "docs" / "algorithms" / "README.md", "preset")
    assert {row["preset"].strip("`"): int(row["steps"].replace(",", "")) for row in rows} == api.STEPS


def test_the_index_names_every_agent() -> None:
    rows = table(ROOT / "docs" / "algorithms" / "README.md", "agent")
    links = [re.fullmatch(r"\[`(\w+)`\]\((\w+)\.md\)", row["agent"]) for row in rows]
    assert sorted((link[1], link[2]) for link in links if link) == sorted((name, name) for name in algorithms.AGENTS)
    for name in algorithms.AGENTS:
        text = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text()
        assert f"retorq train ENV --agent {name}`" in text
        assert f"`src/retorq/algorithms/{name}.py`" in text


def commands_of(page: Path) -> list[str]:
    """The `retorq train` commands of a page's code blocks, one line each."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("retorq train")]


described = cache(describe)  # starting an emulator takes longer than all the rest
SHOWN = sorted({line for page in (ROOT / "docs" / "algorithms").glob("*.md") for line in commands_of(page)})


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_of_the_algorithm_pages_is_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags exist, the settings go together and fit the environment, and a network is built."""
    words = line.split()[1:]
    environment = words[1]
    if environment.startswith("ALE/"):
        pytest.importorskip("ale_py")
    if environment.startswith("MinAtar/"):
        pytest.importorskip("minatar")
    asked = []
    monkeypatch.setattr(api, "describe", described)
    monkeypatch.setattr("retorq.running.process.prepare", lambda *_: None)
    monkeypatch.setattr(train, "introduce", lambda task, run, say: asked.append(task))
    monkeypatch.setattr("retorq.commands.training.say", lambda text: None)
    if "cuda" in words:  # not on every machine
        words[words.index("cuda")] = "cpu"
    code = commands.train([*words[1:], "--dry-run"])
    assert code == 0
    assert [task.agent.name for task in asked] == [words[words.index("--agent") + 1]]


def test_the_readme_lists_the_commands() -> None:
    listed = [row["command"].split()[1].strip("`") for row in table(ROOT / "README.md", "command")]
    assert listed == list(cli._commands())


def test_every_file_is_on_the_map() -> None:
    """docs/architecture.md names each module, and no module that does not exist."""
    tree = re.search(r"```\nsrc/retorq/\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert tree is not None
    named, folder = set(), ""
    for line in tree[1].splitlines():
        entry = re.match(r"( +)([\w.]+/?)", line)
        assert entry is not None, f"not an entry: {line!r}"
        if entry[2].endswith("/"):
            folder = entry[2]
        else:
            named.add((folder if len(entry[1]) > 2 else "") + entry[2])
    source = ROOT / "src" / "retorq"
    files = {str(file.relative_to(source)) for file in source.rglob("*.py")}
    assert named == {file for file in files if not file.endswith("__init__.py")}


def test_every_dependency_is_pinned_and_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(item for items in extras.values() for item in items)]
    names = {re.split(r"[<>=!~\[ ]", item)[0].lower() for item in wanted} - {"retorq"}
    pins = re.findall(r"^([\w.-]+)==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    explained = {
        name.strip("` ").lower()
        for row in table(ROOT / "docs" / "architecture.md", "package")
        for name in row["package"].split(",")
    }
    assert names - {pin.lower() for pin in pins} == set()
    assert explained == names


def test_the_aims_are_beside_what_was_measured() -> None:
    """``python benchmarks/aims.py`` prints what docs/benchmarks.md shows."""
    from benchmarks.aims import table as printed

    assert printed() in (ROOT / "docs" / "benchmarks.md").read_text()


def test_every_result_has_its_command() -> None:
    told = (ROOT / "docs" / "benchmarks.md").read_text() + (ROOT / "docs" / "results.md").read_text()
    for file in sorted((ROOT / "benchmarks" / "results").iterdir()):
        if file.suffix in (".csv", ".json"):
            assert re.search(rf"^.*(python benchmarks|retorq)\b.*{re.escape(file.name)}", told, re.MULTILINE) or any(
                f"collect.py {file.stem} " in line for line in told.splitlines()
            ), f"no command is told for {file.name}"


def test_every_claim_has_its_seeds_protocol_command_and_file() -> None:
    """Commands name a script that is there, or a heading of the page below."""
    page = ROOT / "docs" / "results.md"
    rows = table(page, "claim")
    assert len(rows) > 10
    for row in rows:
        assert all(row[name] for name in ("seeds", "protocol", "result")), row["claim"]
        assert re.search(r"\]\(\.\./benchmarks/results/[\w.-]+\.(csv|json)\)", row["file"]), row["claim"]
        script = re.match(r"`python (benchmarks/\w+\.py)\b.*`$", row["command"])
        below = re.fullmatch(r"\[below\]\(#([\w-]+)\)", row["command"])
        assert script or below, row["claim"]
        assert (ROOT / script[1]).is_file() if script else below and below[1] in anchors(page), row["claim"]


def test_the_learning_table_is_that_of_its_csv() -> None:
    """``python benchmarks/family.py --table`` prints what docs/results.md shows."""
    from benchmarks.family import table as printed

    assert printed() in (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize(
    ("study", "page"), [("start-state", "start_state.md"), ("rainbow-ablations", "rainbow_ablations.md")]
)
def test_the_tables_of_a_study_are_those_of_its_csv_files(study: str, page: str) -> None:
    """``--draw`` prints what the study's page shows."""
    from benchmarks import studies

    text = (ROOT / "docs" / "studies" / page).read_text()
    assert studies.short_table(studies.STUDIES[study], studies.RESULTS) in text
    if studies.STUDIES[study].burn_ins:
        assert studies.short_discrepancies(studies.STUDIES[study], studies.RESULTS) in text


def test_the_table_of_unrolls_is_that_of_its_csv() -> None:
    """1, 4 and 10 frames by no recurrence and unrolls of 1, 10 and 30: DRQN's table of timings."""
    from benchmarks.unroll import table as printed

    assert printed() in (ROOT / "docs" / "benchmarks.md").read_text()
    rows = table(ROOT / "docs" / "benchmarks.md", "frames")
    assert [row["frames"] for row in rows] == ["1", "4", "10"]
    assert list(rows[0]) == ["frames", "no recurrence", "unroll 1", "unroll 10", "unroll 30"]


def test_the_table_of_peers_is_that_of_its_csv() -> None:
    """``python benchmarks/peers.py --table`` prints what docs/results.md shows."""
    from benchmarks import peers

    rows = peers.rows_of(peers.turns_of(ROOT / "benchmarks" / "results" / "peers-turns.csv"))
    assert peers.markdown(rows) in (ROOT / "docs" / "results.md").read_text()


def test_the_table_of_atari_presets_is_that_of_its_csv() -> None:
    """``python benchmarks/atari_presets.py --table`` prints what docs/results.md shows."""
    from benchmarks.atari_presets import table as printed

    assert printed() in (ROOT / "docs" / "results.md").read_text()
