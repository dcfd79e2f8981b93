"""How much is measured within one process: for the process and for what names its figures."""

from __future__ import annotations

TRIVIAL_ITEMS = 100_000
OVERHEAD_PAIRS = 3

WAITING_ITEMS = 200
SECONDS_OF_A_WAIT = 0.1
ASYNC_AT_ONCE = 50
THREADS_AT_ONCE = 20
WAITING_PAIRS = 1
"""One by one they take 20 s, whatever else the machine does."""

CHECKPOINTED_ITEMS = 1_000
SECONDS_OF_AN_ITEM = 0.01
SECONDS_OF_A_REQUEST = 0.01
CHECKPOINTED_BATCHES = 2

COMBINED_ITEMS, COMBINED_TASKS = 1_000_000, 8
COMBINED_PAIRS = 2

STORED_VALUES = 64
SECONDS_OF_A_READ = 0.05
STORAGE_PAIRS = 3
