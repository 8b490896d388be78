"""The counting environment behind every door: single ones, whole vector environments, in each way to reset."""

from gymnasium.vector import AutoresetMode, SyncVectorEnv

from retorq.envs.cell import Cell
from retorq.envs.columns import Columns, InProcess
from retorq.envs.options import EnvOptions
from retorq.envs.vector import GymVector


def gymnasiums_own(mode: AutoresetMode, starts: list[int]) -> GymVector:
    """Gymnasium's vector environment of single ones."""
    from sample_envs import Counting

    vector = SyncVectorEnv([lambda start=start: Counting(start) for start in starts], autoreset_mode=mode)
    return GymVector(vector, name="counting", seed=0, options=EnvOptions())


def ours(mode: AutoresetMode | str, starts: list[int]) -> GymVector:
    """The vector environment that reuses its arrays."""
    from sample_envs import CountingVector

    return GymVector(CountingVector(len(starts), mode, starts), name="counting", seed=0, options=EnvOptions())


def single(starts: list[int]) -> Columns:
    """Single environments in this process."""
    backend = InProcess("sample_envs:Counting", columns=len(starts), options=EnvOptions())
    for column, start in enumerate(starts):
        backend._cells[column] = Cell("sample_envs:Counting", EnvOptions(kwargs={"start": start}))
    return Columns(backend, columns=len(starts), seed=0)


def everywhere(starts: list[int]) -> list[GymVector | Columns]:
    """All of them, the single ones first."""
    return [single(starts)] + [door(mode, starts) for mode in AutoresetMode for door in (ours, gymnasiums_own)]
