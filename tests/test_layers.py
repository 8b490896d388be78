"""Imports go leftwards only, and light modules stay light (docs/architecture.md, "Layers")."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "retorq"
LAYERS: list[set[str]] = [
    {"types"},
    {"arguments", "ops"},
    {"nn", "values", "envs", "replay", "capture", "optimizers"},
    {"losses", "acting", "learner"},
    {"agent"},
    {"distributed"},
    {"algorithms", "running"},
    {"player"},
    {"report", "api"},
    {"bench", "remote"},
    {"study"},
    {"__init__"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# A head returns action values, and the network hands them on.
SIBLINGS = {("nn/heads", "values"), ("nn/network", "values")}


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every module a file imports from retorq, as a path below it; an import inside a function counts too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["retorq", *package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names] if base == ["retorq"] else [base]
            names = [["retorq", "__init__"] if name[1:] == ["__version__"] else name for name in names]
        else:
            continue
        yield from (tuple(name[1:]) for name in names if name[0] == "retorq" and name[1:])


def violations(root: Path) -> list[str]:
    found = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).with_suffix("").parts
        for target in imported(ast.parse(file.read_text()), path[:-1]):
            here, there, edge = path[0], target[0], f"{'/'.join(path)} imports {'.'.join(target)}"
            if here not in LEVEL or there not in LEVEL:
                found.append(f"{edge}: not in the list of layers")
            elif here != there and LEVEL[there] >= LEVEL[here] and ("/".join(path), there) not in SIBLINGS:
                found.append(f"{edge}: imports must go toward the left of the list of layers")
    return found


def test_files_stay_short() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in ROOT.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_imports_go_leftwards_only() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("ops/returns.py", "from retorq.values import Scalars"),
        ("ops/returns.py", "from ..values import Scalars"),
        ("replay/replay.py", "def late():\n    import retorq.nn.cores"),
        ("nn/cores.py", "from retorq.values import Scalars"),
        ("learner.py", "from .losses import q_learning"),
        ("algorithms/dqn.py", "from retorq import running"),
        ("types.py", "from . import ops"),
        ("agent.py", "from retorq.helpers import anything"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(line)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("retorq", "torch ale_py ray gymnasium"),
        ("retorq.types", "torch ale_py ray gymnasium"),
        ("retorq.envs.make", "torch ale_py ray vizdoom"),
        ("retorq.report", "torch ale_py ray"),
        ("retorq.cli", "torch ale_py ray"),
    ],
)
def test_light_modules_stay_light(modules: str, absent: str) -> None:
    code = f"import sys, {modules}; print(*[name for name in {absent.split()!r} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT.parent)}
    )
    assert (run.returncode, run.stdout.split()) == (0, []), run.stderr[-500:] or run.stdout
