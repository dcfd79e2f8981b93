"""Items from storage, results to storage, and what is reused; the public names, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_fanout.storage.csv_items import CsvItems
    from airflow_fanout.storage.json_lines_items import JsonLinesItems
    from airflow_fanout.storage.object_items import ObjectItems
    from airflow_fanout.storage.parquet_items import ParquetItems
    from airflow_fanout.storage.reuse import Reuse
    from airflow_fanout.storage.sql_items import SqlItems

__all__ = ["CsvItems", "JsonLinesItems", "ObjectItems", "ParquetItems", "Reuse", "SqlItems"]

_MODULES = {
    "CsvItems": "airflow_fanout.storage.csv_items",
    "JsonLinesItems": "airflow_fanout.storage.json_lines_items",
    "ObjectItems": "airflow_fanout.storage.object_items",
    "ParquetItems": "airflow_fanout.storage.parquet_items",
    "Reuse": "airflow_fanout.storage.reuse",
    "SqlItems": "airflow_fanout.storage.sql_items",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562): each source needs libraries of its own."""
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
