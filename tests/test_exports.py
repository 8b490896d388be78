"""The public names: what `__all__` says is what there is, each resolves, each is documented."""

import inspect
import os
import re
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path

import pytest

import retorq

ROOT = Path(__file__).parents[1]
NAMES = list(getattr(retorq, "__all__", []))


def test_all_lists_each_public_name_once() -> None:
    assert {"train", "load", "__version__"} <= set(NAMES)
    assert sorted(set(NAMES)) == sorted(NAMES)
    modules = {name for name, value in vars(retorq).items() if isinstance(value, types.ModuleType)}
    public = {name for name in dir(retorq) if not name.startswith("_")} - modules - {"annotations"}
    assert public == set(NAMES) - {"__version__"}


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_documented(name: str) -> None:
    value = getattr(retorq, name)
    if callable(value):
        assert inspect.getdoc(value)
        assert value.__module__.startswith("retorq")


def test_the_version_is_that_of_the_package() -> None:
    assert retorq.__version__ == version("retorq")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        retorq.no_such_name  # noqa: B018


def test_the_readme_uses_names_that_exist() -> None:
    used = set(re.findall(r"\bretorq\.(\w+)\(", (ROOT / "README.md").read_text()))
    assert used
    assert used <= set(NAMES)


TOUCHED = """
import resource, sys
if sys.argv[1] == "retorq":
    import retorq
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.empty(16 * 2**20).fill_(1.0)  # 64 MB: 16,384 pages of 4 KB, 32 of 2 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_tensors_lie_on_large_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("this system does not give large pages to those who ask")

    def faults(who: str) -> int:
        clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        ran = subprocess.run(
            [sys.executable, "-c", TOUCHED, who], capture_output=True, text=True, check=True, env=clean
        )
        return int(ran.stdout)

    assert 4 * faults("retorq") < faults("torch alone")
