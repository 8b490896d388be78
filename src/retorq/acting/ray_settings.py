"""How Ray is set before it is loaded: closed to others, silent about its use, quick to notice what is gone."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from retorq.types import UserError

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # by default 15, which starves actors beside a learner that never rests
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of calls that an actor never answered: its pool has said so already
    # A node that is cut off is noticed within 15 seconds; by default after more than a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
"""Of every process of Ray."""
SAFE = SETTINGS | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""On one host: everything listens on 127.0.0.1."""
LEARNER = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Of a learner, which notices itself that the head is gone: Ray must not end it (after 60 s, without a word) before,
nor tell it in many lines."""
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
ELSEWHERE = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
"""Variables that would lead to another cluster, or to another token."""
DEFAULT_TOKEN = Path("~/.retorq/token")
SHORTEST = 32
"""Characters of a token."""

_loaded: tuple[ModuleType, dict[str, str]] | None = None
_token = ""


class Environment:
    """Environment variables for a while: set (None: unset) at construction, put back by ``restore``.

    Ray sets variables of its own meanwhile; they are removed, too.
    """

    def __init__(self, variables: Mapping[str, str | None]) -> None:
        self._before: dict[str, str | None] | None = {name: os.environ.get(name) for name in variables}
        self._before |= _of_ray()
        _set(variables)

    def restore(self) -> None:
        """Put back what was there; safe to call twice."""
        if self._before is not None:
            before, self._before = self._before, None
            _set(dict.fromkeys(_of_ray()) | before)


def _of_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def require_ray(settings: Mapping[str, str]) -> ModuleType:
    """The ray module, loaded under ``settings``, which are in the environment by now.

    Raises:
        UserError: It is not installed, too old to ask for a token, or was loaded with other settings.
    """
    global _loaded
    there = sys.modules.get("ray")
    if there is not None and (_loaded is None or _loaded[0] is not there):
        raise UserError("ray was imported before its safe settings were made; import it after retorq, or not at all.")
    if _loaded is not None and there is not None and _loaded[1] != dict(settings):
        raise UserError(
            "Ray was started for one host or for several before in this program, and now for the other; do one of "
            "them in a program of its own."
        )
    try:
        import ray
    except ImportError as error:
        raise UserError("pool is 'ray', but Ray is not installed; run: pip install 'retorq[dist]'.") from error
    require_version(ray.__version__)
    module: ModuleType = ray
    _loaded = module, dict(settings)
    return module


def require_installed(why: str = "") -> None:
    """Refuse a Ray that is not installed or too old, without loading it; ``why`` it is wanted begins the sentence."""
    try:
        require_version(version("ray"))
    except PackageNotFoundError:
        raise UserError(f"{why}Ray is not installed; run: pip install 'retorq[dist]'.") from None


def require_version(found: str) -> None:
    """Refuse a Ray that is too old to ask for a token."""
    if tuple(int(part) for part in found.split(".")[:2]) < (2, 60):
        raise UserError(f"Ray is {found}, whose token authentication is incomplete; install 2.60 or newer.")


def own_token() -> str:
    """Of every Ray that this program starts for itself."""
    return in_use(_token or secrets.token_hex(32))


def in_use(token: str) -> str:
    """Note the token of this program: Ray reads it once and keeps it.

    Raises:
        UserError: There is another one already.
    """
    global _token
    if _token not in ("", token):
        raise UserError("Ray already has another token in this program; join the cluster from a program of its own.")
    _token = token
    return token


def read_token(path: Path, *, copied: bool = False) -> str:
    """The token in a file that only its owner can read; ``copied``: from the head's host, where it was made.

    Raises:
        UserError: The file is missing, readable by others, of somebody else, or holds no token.
    """
    path = path.expanduser()
    folder = f"mkdir -p {path.parent}; " if not path.parent.is_dir() else ""
    make = f"(umask 077; {folder}openssl rand -hex 32 > {path})"
    missing, anew = f"make it once with {make} and copy it to every host", f"make it anew with {make}"
    own = f"make your own with {make}"
    if copied:
        missing = anew = own = "copy the head's token file to this host, and let only its owner read it"
    try:
        about, text = path.stat(), path.read_text().strip()
    except FileNotFoundError:
        raise UserError(f"token file {str(path)!r} does not exist; {missing}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"token file {str(path)!r} cannot be read ({error}); {anew}.") from error
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise UserError(f"token file {str(path)!r} can be read by others; run: chmod 600 {path}.")
    if about.st_uid != os.getuid():
        raise UserError(f"token file {str(path)!r} belongs to another user; {own}.")
    if len(text) < SHORTEST or len(text.split()) > 1:
        raise UserError(f"token file {str(path)!r} holds no token of at least {SHORTEST} characters; {anew}.")
    return text
