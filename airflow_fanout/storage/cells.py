"""
Values of database rows as JSON, exactly.

Airflow's own serialization rounds decimals, and has no bytes and no times.
"""

from __future__ import annotations

import base64
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLAIN = (bool, int, float, str, type(None))

_ADDRESSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (IPv4Address, IPv6Address, IPv4Interface, IPv6Interface, IPv4Network, IPv6Network)
}

_TO_JSON: dict[type, tuple[str, Callable[[Any], Any]]] = {
    Decimal: ("decimal", str),
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    UUID: ("uuid", str),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
    bytearray: ("bytes", lambda value: base64.b64encode(value).decode()),
    memoryview: ("bytes", lambda value: base64.b64encode(value).decode()),
    **dict.fromkeys(_ADDRESSES.values(), ("address", lambda value: [type(value).__name__, str(value)])),
    dict: ("dict", lambda value: [[key, _encode(member)] for key, member in value.items()]),
    list: ("list", lambda value: [_encode(member) for member in value]),
    tuple: ("tuple", lambda value: [_encode(member) for member in value]),
}

_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda value: timedelta(*value),
    "uuid": UUID,
    "bytes": base64.b64decode,
    "address": lambda value: _ADDRESSES[value[0]](value[1]),
    "dict": lambda value: {key: _decode(member) for key, member in value},
    "list": lambda value: [_decode(member) for member in value],
    "tuple": lambda value: tuple(map(_decode, value)),
}


def row_to_json(row: Sequence[Any]) -> str:
    """Write a row on one line; ``TypeError`` for a value that there is no way to store."""
    return json.dumps([_encode(value) for value in row], separators=(",", ":"))


def row_from_json(line: str) -> list[Any]:
    """Read what :func:`row_to_json` wrote."""
    return [_decode(value) for value in json.loads(line)]


def _encode(value: Any) -> Any:
    if type(value) in PLAIN:
        return value
    if type(value) in _TO_JSON:
        tag, write = _TO_JSON[type(value)]
        return {tag: write(value)}
    from airflow.sdk.serde import serialize  # a database's own types

    return {"airflow": serialize(value)}


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "airflow":
        from airflow.sdk.serde import deserialize

        return deserialize(content)
    return _FROM_JSON[tag](content)
