"""Ray, started safely: only when asked, for this user alone, on this machine alone.

Whoever reaches Ray's ports can run code. So on one machine every port is bound to the loopback address, a token is
asked for, the dashboard and usage statistics are off, and all files lie in a folder that only this user can enter.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from retorq.types import UserError

SAFE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything listens on 127.0.0.1
    "RAY_worker_niceness": "0",  # by default 15, which starves actors beside a learner that never rests
    # A node that is cut off is noticed within 10 seconds; by default after more than a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
TOKEN = secrets.token_hex(32)
"""Of every Ray that this process starts: Ray reads it once and keeps it."""
STORE = 100 << 20
"""Least bytes of Ray's object store, through which messages and weights go."""


def require_ray() -> ModuleType:
    """The ray module.

    Raises:
        UserError: It is not installed, too old to ask for a token, or was already imported with other settings.
    """
    late = "ray" in sys.modules and any(os.environ.get(name) != value for name, value in SAFE.items())
    if late:
        raise UserError("ray was imported before its safe settings were made; import it after retorq, or not at all.")
    os.environ.update(SAFE)
    try:
        import ray
    except ImportError as error:
        raise UserError("pool is 'ray', but Ray is not installed; run: pip install 'retorq[dist]'.") from error
    version = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if version < (2, 60):
        raise UserError(f"Ray is {ray.__version__}, whose token authentication is incomplete; install 2.60 or newer.")
    module: ModuleType = ray
    return module


def private_folder() -> Path:
    """A folder that only this user can enter, with the token in it. Its path is short, as Unix sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="rq", dir="/tmp" if os.path.isdir("/tmp") else None))
    folder.chmod(0o700)
    token = folder / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    return folder


class LocalRay:
    """Ray on this machine, from construction to ``close``.

    Args:
        processors: How many Ray may count on; actors ask for none, so this bounds nothing.
        store: Bytes of the object store.
    """

    def __init__(self, *, processors: int | None = None, store: int = STORE) -> None:
        self.ray = require_ray()
        if self.ray.is_initialized():
            raise UserError("Ray is already running in this program; retorq starts its own: call ray.shutdown() first.")
        self.folder = private_folder()
        # These would lead to another cluster, or to another token.
        self._before = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", TOKEN_PATH)}
        os.environ[TOKEN_PATH] = str(self.folder / "token")
        try:
            self.context = self.ray.init(
                address="local",
                num_cpus=processors or os.cpu_count(),
                include_dashboard=False,
                object_store_memory=max(STORE, store),
                _temp_dir=str(self.folder / "r"),
                log_to_driver=False,
                logging_level="error",
            )
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> tuple[str, int]:
        """Host and port of Ray's head."""
        host, _, port = self.context.address_info["gcs_address"].rpartition(":")
        return host, int(port)

    def close(self) -> None:
        """End Ray and remove its files; safe to call twice."""
        self.ray.shutdown()
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(self.folder, ignore_errors=True)
