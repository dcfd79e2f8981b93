"""Stored items on a server that speaks S3, and of a PostgreSQL whose rows another session changes."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from airflow_fanout.exceptions import StorageError
from airflow_fanout.storage import CsvItems, JsonLinesItems, ObjectItems, ParquetItems, SqlItems
from tests.support.database import metadata_database
from tests.unit.storage.plans import names, plan, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = "s3://moto_server@raw"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, which has an empty bucket."""
    from airflow.sdk.io import store

    connection = {
        "conn_type": "aws",
        "login": "key",
        "password": "secret",
        "extra": {"endpoint_url": server, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_MOTO_SERVER", json.dumps(connection))
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=server, **keys)
    client.create_bucket(Bucket="raw")
    for found in client.list_objects_v2(Bucket="raw").get("Contents", []):
        client.delete_object(Bucket="raw", Key=found["Key"])
    return client


def put(s3: Any, key: str, body: bytes) -> None:
    s3.put_object(Bucket="raw", Key=key, Body=body)


def test_objects_are_found_named_and_pinned_by_their_etag(s3: Any) -> None:
    for key in ("day/b/2.csv", "day/a#1?.csv", "day/x.txt"):
        put(s3, key, key.encode())
    source = ObjectItems(f"{ROOT}/day/**/*.csv")
    (cut,) = plan(source, 9)
    put(s3, "day/b/2.csv", b"DAY/B/2.CSV")
    same, changed = source.read(cut.places)

    assert cut.names == ["a#1?.csv", "b/2.csv"]
    assert same.read_bytes() == b"day/a#1?.csv"
    assert "day/b/2.csv: it has changed since split planned it" in str(changed.error)


def test_rows_are_read_by_ranges(s3: Any, tmp_path: Path) -> None:
    put(s3, "rows/1.csv", b'id,x\r\n1,"a\nb"\r\n2,c\r\n')
    put(s3, "rows/2.csv", b"id,x\n3,d")
    put(s3, "lines.jsonl", b'1\n\n{"x": 2}')
    pq.write_table(pa.table({"x": range(10)}), tmp_path / "x.parquet", row_group_size=3)
    put(s3, "x.parquet", (tmp_path / "x.parquet").read_bytes())

    assert [row["x"] for row in read(CsvItems(f"{ROOT}/rows/*.csv"))] == ["a\nb", "c", "d"]
    assert names(CsvItems(f"{ROOT}/rows/*.csv", name="id")) == ["1", "2", "3"]
    assert read(JsonLinesItems(f"{ROOT}/lines.jsonl")) == [1, {"x": 2}]
    assert [row["x"] for row in read(ParquetItems(f"{ROOT}/x.parquet"), 4)] == [*range(10)]


def test_rows_of_a_vanished_object_fail_and_no_others(s3: Any) -> None:
    put(s3, "rows/1.csv", b"x\n1\n2\n")
    put(s3, "rows/2.csv", b"x\n3\n")
    source = CsvItems(f"{ROOT}/rows/*.csv")
    (cut,) = plan(source, 9)
    s3.delete_object(Bucket="raw", Key="rows/1.csv")
    *gone, kept = source.read(cut.places)

    assert ["rows/1.csv: it has vanished" in str(item.error) for item in gone] == [True, True]
    assert kept == {"x": "3"}


def test_a_compressed_file_goes_to_pieces_on_the_server(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setenv("AIRFLOW__FANOUT__STORAGE_PATH", f"{ROOT}/pieces/")
    put(s3, "rows.csv.gz", gzip.compress(b"x\n1\n2\n3\n"))
    source = CsvItems(f"{ROOT}/rows.csv.gz")

    assert read(source) == [{"x": "1"}, {"x": "2"}, {"x": "3"}]
    assert read(source, try_number=2) == [{"x": "1"}, {"x": "2"}, {"x": "3"}]
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="raw", Prefix="pieces/")["Contents"]]
    assert len(keys) == 2
    assert all("/group.split/2/piece-" in key for key in keys)


@pytest.mark.parametrize("pattern", ["nowhere/x.csv", "nowhere/*.csv"])
def test_a_missing_bucket_is_named(s3: Any, pattern: str) -> None:
    path = f"s3://moto_server@no-such-bucket/{pattern}"
    with pytest.raises(StorageError, match="no-such-bucket"):
        plan(CsvItems(path))


def test_refused_access_is_named(s3: Any, server: str) -> None:
    put(s3, "rows.csv", b"x\n1\n")
    source = CsvItems(f"{ROOT}/rows.csv")
    (cut,) = plan(source)
    httpx.post(f"{server}/moto-api/reset-auth", content=b"0").raise_for_status()
    try:
        with pytest.raises(StorageError, match=r"raw/rows\.csv: PermissionError: "):
            source.read(cut.places)
    finally:
        httpx.post(f"{server}/moto-api/reset-auth", content=b"inf").raise_for_status()


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with metadata_database() as url:
        if not url:
            pytest.skip("no PostgreSQL here")
        monkeypatch.setenv("AIRFLOW_CONN_ROWS", url.replace("postgresql+psycopg2", "postgresql"))
        yield url.replace("postgresql+psycopg2", "postgresql")


def test_items_are_the_rows_of_one_execution(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session changes all rows after the first batch, and ends before the second."""
    monkeypatch.setenv("AIRFLOW__FANOUT__STORAGE_PATH", str(tmp_path))
    with closing(psycopg2.connect(postgres)) as other:
        other.autocommit = True
        with other.cursor() as cursor:
            cursor.execute("CREATE TABLE things AS SELECT i, now() AS t FROM generate_series(1, 50000) i")
            source = SqlItems("rows", "SELECT i, t, i::numeric / 3 AS third FROM things ORDER BY i", name="i")
            cuts = []
            from airflow_fanout.storage.pieces import Pieces

            for number, cut in enumerate(source.plan(10_000, Pieces("d", "r", "t", try_number=1))):
                cuts.append(cut)
                if number == 0:
                    cursor.execute("UPDATE things SET i = -i")
                    cursor.execute("DELETE FROM things WHERE i < -20000")
    items = [item for cut in cuts for item in source.read(cut.places)]

    assert [item["i"] for item in items] == [*range(1, 50_001)]
    assert len({item["t"] for item in items}) == 1
    assert str(items[0]["third"]) == "0.33333333333333333333"
