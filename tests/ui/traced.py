"""A class of an author's, that leaves a trace where it is imported, and where an object of it is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

NAME = "tests.ui.traced.Traced"


def leave_trace(what: str) -> None:
    with Path(os.environ["FANOUT_UI_TRACE"]).open("a", encoding="utf-8") as trace:
        trace.write(f"{what}\n")


class Traced:
    """An item, or a value."""

    __version__: ClassVar[int] = 1

    @staticmethod
    def deserialize(data: Any, version: int) -> Traced:
        leave_trace(f"deserialized {data}")
        return Traced()


leave_trace("imported")
