"""The manifest of a checkpoint: which files it has, with size and SHA-256, sealed by a hash of its own.

Imports no torch, so that a report or a listing can look through run folders quickly.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from retorq.types import Refused

FORMAT = 1
"""The layout written now. A reader refuses a larger one; every format keeps the sealed ``MANIFEST.json``."""

MANIFEST = "MANIFEST.json"
STATE = "state.json"

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Names a part may have: no separators, nothing hidden."""

_CANDIDATE = re.compile(r"(0|[1-9][0-9]{0,17})(\.old)?")
_SUFFIX = ".safetensors"


class Damaged(Exception):
    """Why a directory is not a checkpoint that can be trusted."""


def file_name(part: str) -> str:
    """File of a part."""
    return part + _SUFFIX


def part_names(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Parts a manifest lists."""
    return tuple(name.removesuffix(_SUFFIX) for name in manifest["files"] if name != STATE)


def step_of(path: Path) -> int:
    """Step in the name of a candidate."""
    return int(path.name.partition(".")[0])


def candidates(folder: Path) -> Iterator[Path]:
    """Directories that may be checkpoints, newest first; a replaced one (``<step>.old``) after its replacement."""
    if not folder.is_dir():
        return
    found = [(int(m[1]), m[2] is None, p) for p in folder.iterdir() if (m := _CANDIDATE.fullmatch(p.name))]
    yield from (path for _, _, path in sorted(found, reverse=True))


def entry(path: Path) -> dict[str, Any]:
    """Size (bytes) and SHA-256 of a file as it is on the disk."""
    with path.open("rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The only bytes this manifest may have: its JSON, with the hash of all the rest as the last entry."""
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**manifest, "seal": seal}, indent=1) + "\n").encode()


def read(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint directory ``path``, with its seal, format and shape checked.

    Raises:
        Damaged: It is missing or not what was written.
        Refused: A newer retorq wrote it.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
        manifest = json.loads(raw)
    except OSError as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or sealed({k: v for k, v in manifest.items() if k != "seal"}) != raw:
        raise Damaged(f"{MANIFEST} does not match its seal")
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise Refused(
            f"checkpoint {path} has format {manifest['format']}, written by retorq {manifest.get('retorq')}; this is "
            f"retorq {retorq_version()}, which reads formats up to {FORMAT}: update retorq"
        )
    if not _well_formed(manifest):
        raise Damaged(f"{MANIFEST} is not one that retorq writes")
    return manifest


def verify(path: Path, run: str) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file is as it was written.

    Raises:
        Damaged: A file is missing or differs, or it is the checkpoint of another step or run.
        Refused: A newer retorq wrote it.
    """
    manifest = read(path)
    if step_of(path) != manifest["step"]:
        raise Damaged(f"its manifest is of step {manifest['step']}")
    if run and manifest["run"] != run:
        raise Damaged(f"it belongs to run {manifest['run']!r}, not {run!r}")
    for name, expected in manifest["files"].items():
        _verify_file(path / name, expected)
    return manifest


def retorq_version() -> str:
    """Version of the installed package."""
    try:
        return version("retorq")
    except PackageNotFoundError:
        return "0+source"


def _verify_file(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        if path.is_symlink() or not path.is_file():
            raise Damaged(f"{path.name} is missing")
        if (size := path.stat().st_size) != expected["size"]:
            raise Damaged(f"{path.name} has {size:,} bytes instead of {expected['size']:,}")
        if entry(path)["sha256"] != expected["sha256"]:
            raise Damaged(f"{path.name} does not match its SHA-256")
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error


def _well_formed(manifest: Mapping[str, Any]) -> bool:
    """A seal proves that nothing slipped, not that the author meant well: types and names are checked too."""
    files = manifest.get("files")
    if not (type(manifest.get("step")) is int and isinstance(manifest.get("run"), str) and isinstance(files, dict)):
        return False
    entries = all(isinstance(e, dict) and type(e.get("size")) is int and "sha256" in e for e in files.values())
    names = all(n.endswith(_SUFFIX) and PART.fullmatch(n.removesuffix(_SUFFIX)) for n in files if n != STATE)
    return manifest.get("format") == FORMAT and STATE in files and entries and names
