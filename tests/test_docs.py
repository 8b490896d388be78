"""What the documents state is what the program does: worked numbers, links, the machine-readable parts."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from retorq import cli
from retorq.algorithms.recurrent_iqn import atari
from retorq.ops.returns import n_step

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_the_published_configuration_is_the_default() -> None:
    """docs/algorithms/recurrent_iqn.md shows each field's value; --preset atari must be the same."""
    config = atari()
    words: dict[str, object] = {"on": True, "off": False, "as N": None}
    rows = [row for row in table(ROOT / "docs" / "algorithms" / "recurrent_iqn.md", "setting") if row["field"]]
    shown = {name.strip("` "): row for row in rows for name in row["field"].split(",")}
    for name, row in shown.items():
        text, value = row["value"].replace(",", ""), getattr(config, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        assert (float(text) if number else words.get(text, text)) == value, name
    ours = {f.name for f in fields(config)} - set(shown)
    assert ours == {
        *("epsilon_uniform_steps", "torso", "torso_hidden", "quantile_layer", "time_reduction", "state_period"),
        *("priority_exponent", "priority_beta", "priority_eta", "priority_error"),
        *("precision", "cuda_graph", "publish_period", "torso_norm", "center_images"),
    }


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
