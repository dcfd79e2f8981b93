"""What stands in the place of an item that can't be run."""

from __future__ import annotations

from typing import NamedTuple


class BrokenItem(NamedTuple):
    """Stands for an item that can't be rendered or read, or that a function of its ``.map()`` has refused."""

    error: Exception
