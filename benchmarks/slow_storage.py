"""Object storage in memory that takes its time over every read; for what runs in one process."""

from __future__ import annotations

import time
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from benchmarks.in_process_sizes import SECONDS_OF_A_READ

__all__ = ["BASE", "SlowFileSystem", "attach_slow_storage"]

PROTOCOL = "slow"
BASE = f"{PROTOCOL}://bucket/xcoms"


class SlowFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files in memory; whoever opens one to read it waits, as for a server far away."""

    protocol = PROTOCOL
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace(f"{PROTOCOL}://", "memory://")))

    def open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        """Open a file; wait first if it is to be read."""
        if "r" in mode:
            time.sleep(SECONDS_OF_A_READ)
        return super().open(path, mode=mode, **more)


def attach_slow_storage() -> None:
    """Let Airflow's paths know it."""
    import fsspec
    from airflow.sdk.io import attach

    fsspec.register_implementation(PROTOCOL, SlowFileSystem, clobber=True)
    attach(PROTOCOL, fs=SlowFileSystem())
