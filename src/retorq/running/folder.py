"""The folder of one run: what was asked for, with which versions, and who is using it. Imports no torch.

``config.json`` (the identity of the run), ``how.json`` (how it was last started: device, threads and the like),
``command.txt`` (one line per start), ``versions.json`` and ``run.lock``; the
checkpoints, logs and pictures beside them belong to other modules.
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import platform
import re
import shlex
import sys
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from retorq.types import Refused, UserError

FORMAT = 1
"""The layout of the run folder. A reader refuses a larger one."""

CONFIG, HOW, COMMAND, VERSIONS, LOCK = "config.json", "how.json", "command.txt", "versions.json", "run.lock"

_OF_A_START = {CONFIG, HOW, COMMAND, VERSIONS, LOCK, *(f"{name}.tmp" for name in (CONFIG, HOW, VERSIONS))}
_PACKAGES = ("retorq", "torch", "numpy", "gymnasium", "ale_py")
_ABSENT = "(not there)"


class RunFolder:
    """An open run folder; use ``create`` or ``open``, and ``close`` it (or ``with``) to let others use it.

    Attributes:
        path: The folder.
        id: Random identity of the run, the same for its whole life.
        stored: All of ``config.json``: ``agent, env, options, config, seed, format, id, environment``.
        resumed: Whether the run existed before.
        notes: Sentences worth telling the user, such as versions that changed since the last start.
    """

    def __init__(self, path: Path, stored: Mapping[str, Any], lock: _Lock | None, *, resumed: bool) -> None:
        self.path = path
        self.stored = dict(stored)
        self.id = str(stored["id"])
        self.resumed = resumed
        self.notes: list[str] = []
        self._lock = lock

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        agent: str,
        env: str,
        seed: int,
        options: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        how: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
    ) -> RunFolder:
        """Make a run folder and lock it; where the same run exists already, go on with it.

        A run with which nothing was ever trained, such as one that was refused, gives way to another.

        Args:
            path: Made with its parents if missing.
            agent: Name of the algorithm.
            env: Id of the environment.
            seed: The run's seed.
            options: Environment options (preprocessing).
            config: Every field of the algorithm's ``Config``.
            environment: Every setting in effect of the environment, what is no option included. It is written down and
                is no part of the run's identity: where it has changed, ``notes`` says so.
            how: How the run is carried out, which may change from start to start; the last is kept (``how``).
            command: Words of the command line (default: ``retorq`` and this process's arguments).

        Raises:
            Refused: The run is in use, has another config (the sentence lists the differences), or is from a newer
                retorq; nothing is changed then.
            UserError: The folder cannot be written, or holds something else.
        """
        path = Path(path)
        asked = {"agent": agent, "env": env, "options": dict(options or {}), "config": dict(config or {}), "seed": seed}
        asked = json.loads(json.dumps(asked, default=_plain))
        found = json.loads(json.dumps(dict(environment or {}), default=_plain))
        _require_writable(path)
        _require_own(path)
        lock = _Lock(path / LOCK)
        try:
            stored = _read_config(path) if (path / CONFIG).exists() else None
            gives_way = stored is not None and not _is_same(stored, asked) and _untrained(path)
            resumed = stored is not None and not gives_way
            if stored is None or gives_way:
                stored = {"format": FORMAT, "id": uuid.uuid4().hex, **asked, "environment": found}
                _write_json(path / CONFIG, stored)
            _require_same(path, stored, asked)
            folder = cls(path, stored, lock, resumed=resumed)
            if gives_way:
                folder.notes.append("the folder was of another configuration, with which nothing was ever trained")
            folder._compare(found)
            if how is not None:
                _write_json(path / HOW, how)
            folder._started(["retorq", *sys.argv[1:]] if command is None else command)
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise UserError(f"run folder {path} cannot be written ({error.strerror}); choose another") from error
            raise
        return folder

    @classmethod
    def open(cls, path: Path | str, *, lock: bool = True, command: Sequence[str] | None = None) -> RunFolder:
        """Open an existing run: to go on with it (``lock=True``) or only to read it (``lock=False``, changes nothing).

        Raises:
            UserError: There is no run at ``path``, or the folder cannot be written.
            Refused: The run is in use, its config is damaged, or it is from a newer retorq.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            raise UserError(f"run {str(path)!r} does not exist: it has no {CONFIG}{_nearest(path)}")
        if not lock:
            return cls(path, _read_config(path), None, resumed=True)
        _require_writable(path)
        held = _Lock(path / LOCK)
        try:
            folder = cls(path, _read_config(path), held, resumed=True)
            folder._started(["retorq", *sys.argv[1:]] if command is None else command)
        except BaseException as error:
            held.release()
            if isinstance(error, OSError):
                raise UserError(f"run folder {path} cannot be written ({error.strerror}); free space there") from error
            raise
        return folder

    @staticmethod
    def there(path: Path | str) -> bool:
        """Whether a run is there already, before anything is made.

        Raises:
            UserError: No run could be made there: the folder holds something else, or cannot be written.
        """
        path = Path(path)
        if (path / CONFIG).exists():
            return True
        if path.is_dir():
            _require_own(path)
        base = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
            why = "Not a directory" if not base.is_dir() else "Permission denied"
            raise UserError(f"run folder {str(path)!r} cannot be written ({why}): choose another with --run")
        return False

    def close(self) -> None:
        """Unlock; safe to call twice."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _compare(self, environment: Mapping[str, Any]) -> None:
        """Note what is no longer as the run began with; runs of before wrote nothing down."""
        if changes := differences(self.stored.get("environment", environment), environment):
            told = ", ".join(f"{name} {was} → {now}" for name, was, now in changes)
            self.notes.append(f"environment settings changed since the run began: {told}")

    def _started(self, command: Sequence[str]) -> None:
        with (self.path / COMMAND).open("a") as file:
            file.write(shlex.join(command) + "\n")
        now, earlier = versions(), _earlier_versions(self.path / VERSIONS)
        if earlier and earlier[-1] != now:
            changes = [f"{name} {was} → {now}" for name, was, now in differences(earlier[-1], now)]
            self.notes.append(f"versions changed since the last start, numbers may differ: {', '.join(changes)}")
        if not earlier or earlier[-1] != now:
            _write_json(self.path / VERSIONS, {**now, "earlier": earlier})


def default_path(env: str, agent: str, seed: int, base: Path | str = "runs") -> Path:
    """``<base>/<env>-<agent>-<seed>``, with everything but letters, digits, ``_``, ``.`` and ``-`` made a dash."""
    words = (re.sub(r"[^A-Za-z0-9_.-]+", "-", word).strip("-.")[:80] or "x" for word in (env, agent, str(seed)))
    return Path(base) / "-".join(words)


def versions() -> dict[str, Any]:
    """Versions of Python and the packages that decide results (None: not installed), platform and processor count."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {"platform": platform.platform(), "cpu_count": os.cpu_count()}


def differences(stored: Any, asked: Any, field: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: ``(dotted field, stored, asked)``, in the order of the fields."""
    if isinstance(stored, Mapping) and isinstance(asked, Mapping):
        names = [*stored, *(name for name in asked if name not in stored)]
        pairs = ((f"{field}.{name}".lstrip("."), stored.get(name, _ABSENT), asked.get(name, _ABSENT)) for name in names)
        return [found for name, old, new in pairs for found in differences(old, new, name)]
    # 1 == True in Python, but not for a flag.
    same = stored == asked and isinstance(stored, bool) == isinstance(asked, bool)
    return [] if same else [(field, stored, asked)]


class _Lock:
    """A file lock that the system releases when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            self.release()
            if not isinstance(error, BlockingIOError):
                raise UserError(
                    f"run folder {path.parent} cannot be locked ({error.strerror}); choose another"
                ) from error
            raise Refused(
                f"run {str(path.parent)!r} is in use by process {holder or '(unknown)'}: stop that one first, or "
                "choose another run folder"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        _held.add(self)

    def release(self) -> None:
        """Close the file, which releases the lock unless a copy of the descriptor lives elsewhere."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        _held.discard(self)


_held: weakref.WeakSet[_Lock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # A forked worker that outlives a killed trainer must not keep its run locked.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)


def _require_writable(path: Path) -> None:
    probe = path / f".probe-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"run folder {str(path)!r} cannot be written ({error.strerror}): choose another with --run"
        ) from error


def _require_own(path: Path) -> None:
    """Refuse to scatter a run's files among someone else's; a start that was killed early may have left its own."""
    strangers = [] if (path / CONFIG).exists() else sorted(p.name for p in path.iterdir() if p.name not in _OF_A_START)
    if strangers:
        raise UserError(
            f"run folder {str(path)!r} has no {CONFIG} but holds {strangers[0]!r}: choose an empty or new one "
            "with --run"
        )


def _untrained(path: Path) -> bool:
    """Whether a run left nothing there but what its start writes: no row, no checkpoint, no file of anybody."""
    left = (p for p in path.iterdir() if p.name not in _OF_A_START)
    return not any(p.stat().st_size if p.is_file() else not p.is_dir() or any(p.iterdir()) for p in left)


def _is_same(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    return not differences({name: stored.get(name) for name in asked}, asked)


def _require_same(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse another config."""
    found = differences({name: stored.get(name) for name in asked}, asked)
    if found:
        changes = "; ".join(f"{field}: {was!r} → {now!r}" for field, was, now in found)
        raise Refused(
            f"run {str(path)!r} was made with another config (stored → asked): {changes}; ask for the stored values to "
            "go on with it, or choose another run folder"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path / CONFIG} cannot be read ({error}): put back a copy, or choose another run") from error
    if not isinstance(stored, dict) or type(stored.get("format")) is not int or "id" not in stored:
        raise Refused(f"{path / CONFIG} is not the config of a run: put back a copy, or choose another run")
    if stored["format"] > FORMAT:
        raise Refused(
            f"run {str(path)!r} has format {stored['format']}, and this retorq reads up to {FORMAT}: update retorq"
        )
    return stored


def how(path: Path | str) -> dict[str, Any]:
    """How a run was last started; empty for one of before this was written down.

    Raises:
        Refused: The file is damaged.
    """
    file = Path(path) / HOW
    try:
        stored = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{file} cannot be read ({error}): delete it, and give anew what the defaults are not") from error
    if not isinstance(stored, dict):
        raise Refused(f"{file} does not tell how a run was started: delete it, and give anew what the defaults are not")
    return stored


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(value, indent=2) + "\n")


def _earlier_versions(path: Path) -> list[dict[str, Any]]:
    """What ``versions.json`` told of every earlier start that differed from the one before, oldest first."""
    try:
        stored = json.loads(path.read_bytes())
        return [*stored.pop("earlier", []), stored]
    except (OSError, ValueError, AttributeError):
        return []


def _nearest(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir() if (p / CONFIG).is_file()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; perhaps you meant {str(path.parent / near[0])!r}" if near else ""


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r} cannot be stored in {CONFIG}")


def replace_file(path: Path, text: str) -> None:
    """Write a finished file under its name, or leave what was there; its folder is made where it is missing.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
