"""An XCom as it is stored -> its value, or why it can't be read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import UnreadableValueError

if TYPE_CHECKING:
    from collections.abc import Iterable

BODIES_AT_ONCE = 16
"""Bodies of object-storage XComs that are read, or looked for, at the same time."""


def values_lie_elsewhere() -> bool:
    """Whether values are not in the database, so that one can be gone that was pushed."""
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom

    return XCom is not BaseXCom


def deserialized(row: Any, what: str) -> Any:
    """
    Deserialize an XCom as the server, or the database, has it.

    :param what: What it is, to begin a sentence with.
    :raises FileNotFoundError: If it is an object-storage XCom whose body is gone.
    :raises UnreadableValueError: If it can't be read for another reason.
    """
    from airflow.sdk.execution_time.xcom import XCom

    # From Airflow 3.4 on a backend has either hook, load_value or deserialize_value; _load chooses.
    load = getattr(XCom, "_load", XCom.deserialize_value)
    try:
        value = load(row)
        if isinstance(value, str) and value == row.value and _is_reference(value):
            _check_body(value)
    except FileNotFoundError:
        raise
    except Exception as cause:  # whatever a storage's client, or a deserializer of the author's, raises
        raise UnreadableValueError(what, cause=cause) from cause
    return value


def plain_json(row: Any, what: str) -> Any:
    """
    Read an XCom as plain JSON: what is stored of an object stays as it is stored, and no class is imported.

    That holds for the database and for Airflow's object storage; any other backend is asked for the value.
    Arguments and errors are those of :func:`deserialized`.
    """
    from airflow.sdk import ObjectStoragePath
    from airflow.sdk.execution_time.xcom import XCom

    stored = row.value
    if values_lie_elsewhere() and XCom.__name__ != "XComObjectStorageBackend":
        return deserialized(row, what)
    if not isinstance(stored, str) or not _is_reference(stored):
        return stored
    try:
        with ObjectStoragePath(stored).open("rb", compression="infer") as body:  # type: ignore[no-untyped-call]
            return json.load(body)
    except FileNotFoundError:
        raise FileNotFoundError(stored) from None
    except Exception as cause:  # whatever a storage's client raises
        raise UnreadableValueError(what, cause=cause) from cause


def lost_bodies(values: Iterable[object]) -> list[str]:
    """References to object-storage XComs whose body is gone, among values as the database has them."""
    references = [value for value in values if isinstance(value, str) and _is_reference(value)]
    with ThreadPoolExecutor(BODIES_AT_ONCE, thread_name_prefix="xcom-bodies") as readers:
        exist = list(readers.map(_exists, references))
    return [reference for reference, there in zip(references, exist, strict=True) if not there]


def _exists(reference: str) -> bool:
    from airflow.sdk import ObjectStoragePath

    try:
        return ObjectStoragePath(reference).exists()
    except ValueError:  # no path can have a zero character: somebody has returned what only looks like one
        return False


def _is_reference(text: str) -> bool:
    """Whether a text is where Airflow's object-storage backend keeps a value."""
    from airflow.sdk.configuration import conf

    if not values_lie_elsewhere():
        return False
    base = conf.get("common.io", "xcom_objectstorage_path", fallback=None)
    return bool(base) and text.startswith(base.rstrip("/") + "/")


def _check_body(reference: str) -> None:
    """Raise the error that Airflow's backend left out: the body is gone, or is not what was stored."""
    from airflow.sdk import ObjectStoragePath

    try:
        ObjectStoragePath(reference).open("rb").close()  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise FileNotFoundError(reference) from None
    message = f"{reference} is there, but is damaged"
    raise ValueError(message)
