"""Fan-out and fan-in for Apache Airflow; the public names, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_fanout.definitions.product import product
    from airflow_fanout.definitions.task_group import FanOutGroup
    from airflow_fanout.execution_time.results import FanInResults
    from airflow_fanout.operators.fan_in import FanInOperator
    from airflow_fanout.operators.notifier import FanOutNotifier
    from airflow_fanout.rules.outcomes import BranchOutcome

__all__ = [
    "BranchOutcome",
    "FanInOperator",
    "FanInResults",
    "FanOutGroup",
    "FanOutNotifier",
    "__version__",
    "product",
]

__version__ = "0.1.0.dev0"

_MODULES = {
    "BranchOutcome": "airflow_fanout.rules.outcomes",
    "FanInOperator": "airflow_fanout.operators.fan_in",
    "FanInResults": "airflow_fanout.execution_time.results",
    "FanOutGroup": "airflow_fanout.definitions.task_group",
    "FanOutNotifier": "airflow_fanout.operators.notifier",
    "product": "airflow_fanout.definitions.product",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562): `airflow` commands needn't load them."""
    module = _MODULES.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the names that haven't been imported yet, too."""
    return sorted({*globals(), *__all__})
