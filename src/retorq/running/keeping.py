"""What a run keeps of itself: its checkpoints, which one stands, and the batch that could not be learned from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from retorq.distributed.peers import Lost
from retorq.running.checkpoint import Checkpoint, Part, SaveFailed, newest, save
from retorq.running.folder import RunFolder
from retorq.running.gorila import Gorila
from retorq.running.log import Log
from retorq.running.trainer import Trainer
from retorq.types import Diverged, Refused, Stopped

if TYPE_CHECKING:
    from retorq.running.train import RunOptions


def standing(folder: RunFolder) -> int | None:
    """The step of the newest good checkpoint; None: there is none."""
    try:
        found = newest(folder.checkpoints, run=folder.id, warn=lambda sentence: None)
    except Refused:
        return None
    return None if found is None else found.step


def store(
    trainer: Trainer | Gorila, folder: RunFolder, log: Log, run: RunOptions, *, last: bool = False, lost: bool = False
) -> bool:
    """Write a checkpoint; a full disk is told and survived. Returns whether it was written.

    What runs elsewhere (shards of the replay, bundles) is left out where it is lost for good. ``last``: also where it
    is lost twice while it is saved; otherwise the next checkpoint will have it. ``lost``: the run ends since Ray is
    gone, and says itself that this is why nothing was saved.

    Raises:
        Stopped: The run cannot go on; not where this is the ``last``.
    """
    for _attempt in range(2):
        try:
            return _store(trainer, folder, log, run)
        except (Diverged, Stopped) as error:
            if isinstance(error, Stopped) and not last:
                raise
            why: Exception = error
            break
        except (SaveFailed, Lost) as error:
            why = error
            if not last or not isinstance(error.__cause__ if isinstance(error, SaveFailed) else error, Lost):
                log.say(f"checkpoint not written: {error}")
                return False
    try:
        written = _store(trainer, folder, log, run, alone=True)
    except (SaveFailed, Lost, Stopped) as error:
        if isinstance(error, SaveFailed) or not lost:
            log.say(f"checkpoint not written: {error}")
        return False
    log.say(f"the checkpoint leaves out what runs elsewhere: {why}")
    return written


def _store(trainer: Trainer | Gorila, folder: RunFolder, log: Log, run: RunOptions, *, alone: bool = False) -> bool:
    """Write one, of one life of each peer; raises ``SaveFailed`` or ``Lost``, or what starting a peer anew raises."""
    rows = run.save_replay and trainer.keeps_rows and not alone
    lives = trainer.lives
    parts = {name: Part(tensors=lambda t=tensors: t) for name, tensors in trainer.tensors(alone).items()}  # type: ignore[misc]
    if rows:
        for name, (fingerprint, tensors) in trainer.chunks().items():
            parts[name] = Part(tensors=tensors, fingerprint=fingerprint, late=run.replay_shards > 0)
    state = {"trainer": trainer.numbers(alone), "log": log.state_dict(), "replay_saved": rows}
    if trainer.lives != lives:
        raise Lost("a peer was lost while it was saved, and its next life holds something else")
    save(folder.checkpoints, trainer.steps, state=state, parts=parts, run=folder.id)
    return True


def resume(trainer: Trainer | Gorila, folder: RunFolder, log: Log) -> Checkpoint | None:
    """Put the newest good checkpoint back into the trainer and the log, saying what could not be.

    Raises:
        Refused: There are checkpoints, but none is whole.
    """
    for note in folder.notes:
        log.say(note)
    if not folder.resumed:
        return None
    found = newest(folder.checkpoints, run=folder.id, warn=log.say)
    if found is None:
        log.say("this run has no checkpoint yet: it starts from the beginning")
        return None
    rows = bool(found.state["replay_saved"])
    exact = trainer.load(found.tensors, found.parts, found.state["trainer"], rows=rows)
    log.load_state_dict(found.state["log"])
    log.say(f"going on at step {found.step:,} of {trainer.total:,}")
    if not rows:
        log.say("this checkpoint holds no replay: it is refilled with the present policy before learning goes on")
    if trainer.reseeded:
        log.say(
            "the checkpoint is of another kind of device: its random numbers cannot go on there, and new ones are drawn"
        )
    if not exact:
        log.say("everything is as it was but the environments, which cannot be saved: new games were begun")
    return found


def dump(trainer: Trainer | Gorila, path: Path) -> None:
    """The batch that could not be learned from, for a look."""
    batch = trainer.last_batch
    if batch is None:
        return
    rows = batch.trajectory
    tensors: Mapping[str, torch.Tensor] = {
        "action": rows.action,
        "reward": rows.reward,
        "terminated": rows.terminated,
        "last": rows.last,
        **{f"observation.{name}": value for name, value in rows.inputs.observation.items()},
    }
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path)
