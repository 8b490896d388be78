"""retorq: value-based deep reinforcement learning with memory and return distributions.

``retorq.train(env)`` trains, ``retorq.resume(run)`` goes on, ``retorq.load(run)`` gives the trained agent. Importing
this package loads neither torch nor an emulator; the first use of a name does.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own takes longer to import than all the rest here, and a Ctrl-C may be waiting
if TYPE_CHECKING:
    from typing import Any

    from retorq.api import Player, Run, load, resume, train
    from retorq.envs.options import EnvOptions

# PyTorch asks for this at its first allocation. The C library maps every large tensor anew, and touching it in pages of
# 4 KB takes a good part of a large update on a CPU; pages of 2 MB are 512 times fewer.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"

__all__ = ["EnvOptions", "Player", "Run", "__version__", "load", "resume", "train"]

_HOME = {"EnvOptions": "retorq.envs.options"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'retorq' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME.get(name, "retorq.api")), name)


def __dir__() -> list[str]:
    return list(__all__)
