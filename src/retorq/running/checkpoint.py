"""Checkpoints: directories of safetensors and JSON that are either whole or not there.

A checkpoint is ``<folder>/<step>/`` with one ``<part>.safetensors`` per part, ``state.json`` and ``MANIFEST.json``,
which names every file with its size and SHA-256 and is sealed by a hash of its own. It is written under a temporary
name beside the others, every file is synced to the disk, the manifest comes last, and then the directory is renamed: a
process that dies at any moment leaves the previous checkpoints as they were. Nothing is pickled, so reading one runs no
code.

Three kinds of names may stand beside the numbered directories: ``.tmp-*`` (being written or deleted; swept by the next
``save``), ``<step>.old`` (being replaced by a newer save of the same step) and ``<step>.aside`` (later than a step
saved after it: a damaged checkpoint, or a future that a resume gave up; never read, never deleted).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from retorq.running import manifest as manifests
from retorq.running.manifest import FORMAT, MANIFEST, STATE, Damaged
from retorq.types import Refused

__all__ = [
    "FORMAT",
    "Checkpoint",
    "Part",
    "SaveFailed",
    "newest",
    "save",
]

_SLACK = 1 << 16
_Source = tuple[Path, Mapping[str, Any]]


class SaveFailed(OSError):
    """A checkpoint could not be written; the earlier ones are untouched and training may go on.

    ``needed`` is the number of bytes the checkpoint takes, without the files it shares with the previous one.
    """

    def __init__(self, sentence: str, needed: int) -> None:
        super().__init__(sentence)
        self.needed = needed


@dataclass(frozen=True)
class Part:
    """One file of a checkpoint.

    Args:
        tensors: Gives the named tensors, any device, any strides. Views cost nothing: each part is copied to host
            memory only while it is written.
        fingerprint: Equal fingerprints promise equal contents. When the previous checkpoint holds this part with the
            same fingerprint its file is hard-linked, ``tensors`` is not called, and the save takes no time or space
            for it. The price: both checkpoints then rest on the same bytes of the disk.
        late: ``tensors`` is called while this part is written, and what it gives is forgotten then: for parts that come
            from elsewhere and would not fit into memory together. Whether the disk has room is found out on the way.
    """

    tensors: Callable[[], dict[str, torch.Tensor]]
    fingerprint: str | None = None
    late: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte agreed with its manifest when it was found.

    ``state`` is what ``save`` was given, ``manifest`` the record of its files, ``skipped`` one sentence for every newer
    checkpoint that had to be passed over.
    """

    path: Path
    step: int
    state: dict[str, Any]
    manifest: Mapping[str, Any]
    skipped: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts."""
        return manifests.part_names(self.manifest)

    def tensors(self, part: str, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Read one part.

        Raises:
            Refused: There is no such part, or its file went bad since it was verified.
        """
        if part not in self.parts:
            raise Refused(f"checkpoint {self.path} holds no part {part!r}, only {', '.join(self.parts) or 'none'}")
        try:
            return load_file(self.path / manifests.file_name(part), device=str(device))
        except (OSError, SafetensorError) as error:
            raise Refused(f"checkpoint {self.path}: part {part!r} cannot be read ({error})") from error


def _plain(value: Any) -> Any:
    """For ``json.dumps(default=...)``: numpy numbers and arrays as Python numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} is not JSON: put tensors into parts")


def save(
    folder: Path,
    step: int,
    *,
    state: Mapping[str, Any],
    parts: Mapping[str, Part],
    keep: int = 2,
    run: str = "",
) -> Path:
    """Write the checkpoint ``<folder>/<step>`` and keep the newest ``keep``.

    Args:
        folder: Directory of the checkpoints of one run; made if missing. One process writes to it at a time.
        step: Agent steps so far; a checkpoint of the same step is replaced.
        state: JSON values (integers of any size; numpy scalars and arrays become numbers and lists).
        parts: Files to write, by name (letters, digits, ``_``, ``-``, ``.``).
        keep: How many checkpoints stay, at least 1.
        run: Identity of the run; ``newest`` passes over checkpoints of another one.

    Raises:
        SaveFailed: The disk is full or fails; the earlier checkpoints are untouched, try again later.
        ValueError: A name, ``step`` or ``keep`` out of range; TypeError: ``state`` is no JSON. Nothing was written.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step must be at least 0 and keep at least 1, not {step} and {keep}")
    if bad := [name for name in parts if not manifests.PART.fullmatch(name)]:
        raise ValueError(f"part name {bad[0]!r}: use letters, digits, '_', '-' and '.'")
    text = json.dumps(state, default=_plain).encode()
    sources = _linkable(folder, step, run, parts)
    tensors = {name: part.tensors() for name, part in parts.items() if name not in sources and not part.late}
    needed = len(text) + _SLACK + sum(map(_bytes, tensors.values()))
    temporary = folder / f".tmp-{step}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if (free := shutil.disk_usage(folder).free) < needed:
            raise OSError(errno.ENOSPC, f"only {free:,} bytes are free")
        temporary.mkdir()
        files = {STATE: _write(temporary / STATE, text)}
        for name, part in parts.items():
            mark = {} if part.fingerprint is None else {"fingerprint": part.fingerprint}
            if name in sources:
                written = _link(sources[name], temporary)
            else:
                written = _store(temporary, name, part.tensors() if part.late else tensors[name])
                needed += written["size"] if part.late else 0
            files[manifests.file_name(name)] = written | mark
        record = {"format": FORMAT, "retorq": manifests.retorq_version(), "run": run, "step": step, "files": files}
        _write(temporary / MANIFEST, manifests.sealed(record))
        _sync_directory(temporary)
        final = _put_in_place(temporary, folder, step)
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        raise SaveFailed(_failure(folder, step, needed, error), needed) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(folder, step, keep)
    return final


def newest(folder: Path, *, run: str = "", warn: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there is none at all. Changes nothing on the disk.

    Args:
        folder: As for ``save``.
        run: If given, a checkpoint that says another run is passed over.
        warn: Told one sentence per checkpoint passed over; without it they go to the standard error stream.

    Raises:
        Refused: There are checkpoints but none is whole, or one was written by a newer retorq.
    """
    skipped: list[str] = []
    for path in manifests.candidates(folder):
        try:
            record = manifests.verify(path, run)
            state = json.loads((path / STATE).read_bytes())
            return Checkpoint(path=path, step=record["step"], state=state, manifest=record, skipped=tuple(skipped))
        except (Damaged, OSError, ValueError, RecursionError) as reason:
            if not os.path.lexists(path):
                # A running trainer replaced it between the listing and the reading: look again.
                return newest(folder, run=run, warn=warn)
            skipped.append(f"checkpoint {path} is passed over: {reason}")
            (warn or _to_stderr)(skipped[-1])
    if skipped:
        raise Refused(
            f"no checkpoint in {folder} can be used ({'; '.join(skipped)}): put back a copy of one, or start afresh in "
            "another run folder"
        )
    return None


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """What a part takes on the disk, about."""
    return sum(tensor.numel() * tensor.element_size() + 256 for tensor in tensors.values())


def _store(directory: Path, part: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Write one part, sync it, and return its entry for the manifest."""
    seen: set[int] = set()
    ready: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        host = tensor.detach().cpu().contiguous()
        # The library refuses tensors that share memory (tied weights, two views of one block): they get their own.
        address = host.untyped_storage().data_ptr()
        ready[name] = host.clone() if address in seen else host
        seen.add(address)
    path = directory / manifests.file_name(part)
    save_file(ready, path)
    _sync(path)
    return manifests.entry(path)


def _write(path: Path, data: bytes) -> dict[str, Any]:
    path.write_bytes(data)
    _sync(path)
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _link(source: _Source, directory: Path) -> dict[str, Any]:
    path, listed = source
    try:
        os.link(path, directory / path.name)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        shutil.copyfile(path, directory / path.name)  # a file system without hard links
        _sync(directory / path.name)
    return {key: listed[key] for key in ("size", "sha256")}


def _linkable(folder: Path, step: int, run: str, parts: Mapping[str, Part]) -> dict[str, _Source]:
    """Files of the previous checkpoint that hold unchanged parts and are still there at full size, by part name."""
    previous = _previous(folder, step, run)
    sources: dict[str, _Source] = {}
    if previous is None:
        return sources
    directory, record = previous
    for name, part in parts.items():
        path, listed = directory / manifests.file_name(name), record["files"].get(manifests.file_name(name), {})
        same = part.fingerprint is not None and listed.get("fingerprint") == part.fingerprint
        if same and path.is_file() and path.stat().st_size == listed["size"]:
            sources[name] = path, listed
    return sources


def _previous(folder: Path, step: int, run: str) -> _Source | None:
    """The newest checkpoint of this run up to ``step``; later ones were passed over by the resume that led here."""
    try:
        paths = [path for path in manifests.candidates(folder) if manifests.step_of(path) <= step]
    except OSError:
        return None
    for path in paths:
        try:
            record = manifests.read(path)
        except (Damaged, Refused):
            continue
        if record["run"] == run:
            return path, record
    return None


def _put_in_place(temporary: Path, folder: Path, step: int) -> Path:
    """Rename the finished directory. If ``<step>`` was there, at every moment it or ``<step>.old`` is whole."""
    final, old = folder / str(step), folder / f"{step}.old"
    if final.is_dir() and not final.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    elif os.path.lexists(final):
        _put_aside(final)  # a file or link that someone left under this name
    try:
        os.rename(temporary, final)
    except OSError:
        if old.exists():
            os.rename(old, final)
        raise
    _sync_directory(folder)
    return final


def _prune(folder: Path, step: int, keep: int) -> None:
    """Delete what is older than the newest ``keep``; put aside what claims to be later than the newest. Best effort."""
    kept = 0
    for path in manifests.candidates(folder):
        number = manifests.step_of(path)
        replaced = path.suffix == ".old" and (folder / str(number)).exists()
        try:
            if number > step:
                _put_aside(path)
            elif replaced or kept >= keep:
                _delete(path)
            else:
                kept += 1
        except OSError:
            continue  # the new checkpoint stands; the next save tries again


def _put_aside(path: Path) -> None:
    aside = path.with_name(f"{manifests.step_of(path)}.aside")
    os.rename(path, aside.with_name(f"{aside.name}-{uuid.uuid4().hex[:8]}") if aside.exists() else aside)


def _delete(path: Path) -> None:
    """Out of sight first, so that a half-deleted directory is never taken for a damaged checkpoint."""
    trash = path.with_name(f".tmp-{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    os.rename(path, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove temporary directories whose process is gone (or is this one, which writes one checkpoint at a time)."""
    for path in folder.glob(".tmp-*-*-*"):
        owner = path.name.split("-")[-2]
        if not owner.isdigit() or int(owner) == os.getpid() or not _alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _failure(folder: Path, step: int, needed: int, error: BaseException) -> str:
    reason = (isinstance(error, OSError) and error.strerror) or (str(error).splitlines() or [repr(error)])[0]
    return (
        f"the checkpoint of step {step:,} was not saved in {folder}: {reason}; it needs {needed:,} bytes; the earlier "
        "checkpoints are untouched: free space there or mend the disk"
    )


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)
