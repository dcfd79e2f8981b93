"""Makes the object that standard input stands for, as a task would that reads it."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

from airflow_fanout.serialization.stored_values import deserialized

if __name__ == "__main__":
    deserialized(SimpleNamespace(value=json.loads(sys.stdin.read())), "It")
