"""An XCom as it is stored -> its value, or why it can't be read."""

from __future__ import annotations

from typing import Any

from airflow_fanout.exceptions import UnreadableValueError

__all__ = ["deserialized", "values_lie_elsewhere"]


def values_lie_elsewhere() -> bool:
    """Whether values are not in the database, so that one can be gone that was pushed."""
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom

    return XCom is not BaseXCom


def deserialized(row: Any, what: str) -> Any:
    """
    Deserialize an XCom as the server, or the database, has it.

    :param row: Has the serialized value, or the reference to it, as its ``value``.
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


def _is_reference(text: str) -> bool:
    """Whether a text is where Airflow's object-storage backend keeps a value."""
    from airflow.sdk.configuration import conf

    if not values_lie_elsewhere():
        return False
    base = conf.get("common.io", "xcom_objectstorage_path", fallback=None)
    return bool(base) and text.startswith(base.rstrip("/") + "/")


def _check_body(reference: str) -> None:
    """
    Raise the reason why Airflow's backend gave a reference instead of the value, without an error of its own.

    :raises FileNotFoundError: If the body is gone.
    :raises ValueError: If it is there, but is not what was stored.
    """
    from airflow.sdk import ObjectStoragePath

    try:
        ObjectStoragePath(reference).open("rb").close()  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise FileNotFoundError(reference) from None
    message = f"{reference} is there, but is damaged"
    raise ValueError(message)
