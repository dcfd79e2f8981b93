from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, ObjectStoragePath

from airflow_fanout import FanOutGroup, storage
from airflow_fanout.exceptions import DeclarationError
from airflow_fanout.storage import Reuse
from tests.unit.refused import wrong_type, wrong_value


@pytest.mark.parametrize(
    ("declared", "error", "message"),
    [
        wrong_type("path: expected a text or an ObjectStoragePath, found", path=Path("/store")),
        wrong_value("path: expected a folder", path=""),
        wrong_type("version: expected a text or a number, found None", version=None),
        wrong_type("version: expected a text or a number, found True", version=True),
        wrong_type("expire_after: expected a timedelta, found 3600", expire_after=3600),
        wrong_value("expire_after: expected more than 0 s", expire_after=timedelta()),
    ],
)
def test_what_can_not_be_used_is_refused(declared: Any, error: type[DeclarationError], message: str) -> None:
    with pytest.raises(error, match=message):
        Reuse(**{"path": "/store", "version": 1, **declared})


def test_a_path_keeps_its_connection() -> None:
    reuse = Reuse(ObjectStoragePath("s3://bucket/store", conn_id="other"), version="a")

    assert reuse.path == "s3://other@bucket/store"
    assert repr(reuse) == "Reuse('s3://other@bucket/store', version='a')"


def test_it_is_public() -> None:
    assert "Reuse" in dir(storage)


def with_context(item: int, ds: str) -> str:
    return f"{item} {ds}"


def with_all_context(item: int, **context: Any) -> int:
    return item + len(context)


def add(first: int, second: int) -> int:
    return first + second


@pytest.mark.parametrize(
    ("declared", "error", "message"),
    [
        wrong_type(r"reuse: expected Reuse\(path, version=…\)", reuse="/store"),
        wrong_value("reuse: is for the items of one task; give items_per_task too", items_per_task=None),
        wrong_value("reuse: needs the value of each item, but combine= keeps none", combine=add),
        wrong_value(r"reuse: with_context\(item, ds\) takes 'ds', which differs", branch=with_context),
        wrong_value("reuse: .* takes all of Airflow's context", branch=with_all_context),
    ],
)
@pytest.mark.usefixtures("dag")
def test_a_group_refuses_what_can_not_be_told_by_a_fingerprint(
    declared: Any, error: type[DeclarationError], message: str
) -> None:
    reuse = Reuse("/store", version=1)
    arguments = {"branch": abs, "items": [1], "items_per_task": 2, "reuse": reuse, **declared}
    if arguments["branch"] is abs:
        arguments["branch"] = lambda item: item

    with pytest.raises(error, match=message):
        FanOutGroup("g", **arguments)


def test_a_fail_fast_dag_refuses_it() -> None:
    reuse = Reuse("/store", version=1)

    with (
        DAG("pipeline", schedule=None, fail_fast=True),
        pytest.raises(DeclarationError, match="would be skipped whenever all items are reused"),
    ):
        FanOutGroup("g", branch=lambda item: item, items=[1], items_per_task=2, reuse=reuse)
