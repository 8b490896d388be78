"""Atari 2600 games through the C++ vector environment of ``ale_py``.

Two things that the emulator reports with one flag are told apart here, at the step where they happen: a lost life
(``terminated``, the game goes on) and the end of the game (``ended``). Differences to Mnih et al. (2015): a game
starts with 0 to ``noop_max`` no-op frames rather than 1 to 30, because that is what the emulator's code can draw.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from retorq.envs.guard import check_action
from retorq.envs.options import ATARI_FIELDS, EnvOptions
from retorq.types import EnvSpec, Leaf, Step, Tree, UserError

_OLD_ID = re.compile(r"^(?P<game>[A-Z][A-Za-z0-9]*?)(?:NoFrameskip|Deterministic)?-v4$")
_TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}  # these cannot be played alone
_NEW_ID = re.compile(r"^ALE/(?P<game>[A-Za-z0-9]+)-v5$")


def _ale() -> Any:
    """The ``ale_py`` package, silenced; ``UserError`` with the remedy if it is missing."""
    try:
        import ale_py
    except ImportError:
        raise UserError("Atari games need the package ale_py; install it with: pip install retorq[atari]") from None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


def game_names() -> tuple[str, ...]:
    """Every game as ``ALE/Name-v5``; empty without ``ale_py``."""
    try:
        _ale()
    except UserError:
        return ()
    from ale_py import roms

    return tuple(f"ALE/{_camel(rom)}-v5" for rom in sorted(roms.get_all_rom_ids()) if rom not in _TWO_PLAYERS)


def _camel(rom: str) -> str:
    return rom.title().replace("_", "")


def rom_of(env: str) -> str | None:
    """The ROM name (``ms_pacman``) behind an id (``ALE/MsPacman-v5``, ``MsPacmanNoFrameskip-v4``), else None.

    Old ``-v4`` ids mean the same as the new one: frame skip and sticky actions are options, not part of the name.
    Raises ``UserError`` for an Atari id while ``ale_py`` is missing.
    """
    match = _NEW_ID.match(env) or _OLD_ID.match(env)
    if match is None:
        return None
    if env.startswith("ALE/"):
        _ale()
    wanted = match["game"].lower()
    try:
        from ale_py import roms
    except ImportError:
        return None
    games = (rom for rom in roms.get_all_rom_ids() if rom not in _TWO_PLAYERS)
    return next((rom for rom in games if rom.replace("_", "") == wanted), None)


def emulator(rom: str, sticky: float, seed: int) -> Any:
    """One emulator with the game loaded (``ale_py.ALEInterface``)."""
    ale = _ale().ALEInterface()
    ale.setFloat("repeat_action_probability", sticky)
    ale.setInt("random_seed", seed)
    from ale_py import roms

    ale.loadROM(roms.get_rom_path(rom))
    return ale


def describe(rom: str, options: EnvOptions) -> EnvSpec:
    """What an agent must know of the game; opens and closes one emulator."""
    name = f"ALE/{_camel(rom)}-v5"
    options.refuse_unused(name, ATARI_FIELDS)
    ale = emulator(rom, 0.0, 0)
    actions = ale.getLegalActionSet() if options.full_actions else ale.getMinimalActionSet()
    channels = 1 if options.grayscale else 3
    leaf = Leaf(kind="image", shape=(channels, options.frame_size, options.frame_size), dtype="uint8")
    return EnvSpec(
        id=name,
        observation={"obs": leaf},
        actions=len(actions),
        max_steps=-(-options.max_frames // options.frame_skip),
        frames_per_step=options.frame_skip,
        settings={**options.settings(ATARI_FIELDS), "max_pool": 2, "reward": "raw"},
        action_names=tuple(action.name.lower() for action in actions),
    )


def seeds_for(seed: int, columns: int, first: int = 0) -> np.ndarray:
    """One 31-bit seed per column, from the ``first`` on, well apart even where runs use neighboring seeds."""
    return (np.random.SeedSequence(seed).generate_state(first + columns)[first:] >> 1).astype(np.int64)


class Atari:
    """``columns`` games in C++ threads; a ``VectorEnv`` whose reset follows the end by one step."""

    def __init__(self, rom: str, *, columns: int, seed: int, options: EnvOptions, training: bool) -> None:
        self.spec = describe(rom, options)
        self.columns = columns
        self._seed: int | None = seed
        self._life_loss = options.life_loss and training
        self._cap, self._skip = options.max_frames, options.frame_skip
        self._env = self._open(rom, options)
        self._lives = np.zeros(columns, np.int64)
        self._steps = np.zeros(columns, np.int64)
        self._frame = np.zeros(columns, np.int64)
        self._pending = np.zeros(columns, bool)

    def _open(self, rom: str, options: EnvOptions) -> Any:
        from ale_py.vector_env import AtariVectorEnv

        # Everything is passed: several defaults of the emulator's interface are not what the papers did.
        return AtariVectorEnv(
            rom,
            self.columns,
            num_threads=min(self.columns, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4),
            max_num_frames_per_episode=options.max_frames,
            repeat_action_probability=options.sticky,
            full_action_space=options.full_actions,
            autoreset_mode="NextStep",
            img_height=options.frame_size,
            img_width=options.frame_size,
            grayscale=options.grayscale,
            stack_num=1,
            frameskip=options.frame_skip,
            maxpool=True,
            noop_max=options.noop_max + 1,  # the emulator draws from 0 .. noop_max - 1
            episodic_life=False,  # would restart the game at every lost life
            life_loss_info=self._life_loss,
            reward_clipping=False,
            use_fire_reset=options.fire_reset,
        )

    def _observation(self, frames: np.ndarray) -> Tree:
        if frames.ndim == 5:  # color: [B, 1, H, W, 3]
            frames = np.ascontiguousarray(np.moveaxis(frames, -1, 2)).reshape(self.columns, -1, *frames.shape[2:4])
        return {"obs": frames}

    def reset(self, seed: int | None = None) -> Tree:
        """New games everywhere; the seed of the constructor counts for the first reset, later ones go on."""
        seed, self._seed = (self._seed if seed is None else seed), None
        seeds = None if seed is None else seeds_for(seed, self.columns)
        frames, info = self._env.reset(seed=seeds)
        self._note(info)
        self._steps[:], self._pending[:] = 0, False
        return self._observation(frames)

    def _note(self, info: Mapping[str, np.ndarray]) -> None:
        self._lives = info["lives"].astype(np.int64)
        self._frame = info["episode_frame_number"].astype(np.int64)

    def step(self, action: np.ndarray) -> Step:
        """One action per column; where the last step ended the game it is ignored and a new game starts."""
        action = check_action(action, self.columns, self.spec.actions)
        frames, reward, terminated, truncated, info = self._env.step(action)
        self._steps = np.where(self._pending, 0, self._steps + 1)
        lives, capped = info["lives"], self._steps * self._skip >= self._cap
        life_lost = terminated & (lives < self._lives) & (lives > 0) & ~capped & self._life_loss
        # The emulator restarted a game whose end looked like a lost life: cut that stream before this row.
        broken = (info["episode_frame_number"] < self._frame) & ~self._pending
        ended = ((terminated & ~life_lost) | truncated) & ~broken
        self._steps[broken] = 0
        self._pending = ended
        self._note(info)
        return Step(
            observation=self._observation(frames),
            reward=np.where(broken, 0, reward).astype(np.float32),
            terminated=terminated & ~broken,
            truncated=truncated & ~broken,
            ended=ended,
            broken=broken if broken.any() else None,
        )

    def close(self) -> None:
        """Let the emulators go; the threads end with them."""
        self._env = None

    def state_dict(self) -> None:
        """None: the emulators' position cannot be saved."""
        return None

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Refused: there is nothing to put back."""
        raise UserError(f"{self.spec.id} cannot restore an emulator's position; start new games with reset().")
