from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.bases.xcom import BaseXCom

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.serialization.stored_values import deserialized, lost_bodies, plain_json

if TYPE_CHECKING:
    from pathlib import Path


class Deserializing(BaseXCom):
    """A backend with the hook that every Airflow has."""

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        return {"body of": result.value}


class Loading(BaseXCom):
    """A backend with the hook that Airflow has from 3.4 on."""

    @classmethod
    def load_value(cls, stored: Any) -> Any:
        return {"body of": stored}

    if not hasattr(BaseXCom, "load_value"):  # before Airflow 3.4

        @classmethod
        def _load(cls, result: Any) -> Any:
            return cls.load_value(result.value)


@pytest.mark.parametrize("backend", [Deserializing, Loading])
def test_each_kind_of_backend_gives_the_value_and_not_the_reference(
    monkeypatch: pytest.MonkeyPatch, backend: type[BaseXCom]
) -> None:
    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", backend)

    assert deserialized(SimpleNamespace(value="reference"), "It") == {"body of": "reference"}


ORDER = {"__classname__": "acme.Order", "__version__": 1, "__data__": {"id": 7}}


@pytest.mark.parametrize("stored", [None, 3, "text", [1, 2], {"a": ORDER}, ORDER], ids=repr)
def test_plain_json_is_what_is_stored_and_makes_no_object(stored: Any) -> None:
    assert plain_json(SimpleNamespace(value=stored), "It") == stored


class TestObjectStorage:
    @pytest.fixture
    def folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        backend = pytest.importorskip("airflow.providers.common.io.xcom.backend")
        monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", backend.XComObjectStorageBackend)
        monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH", f"file://{tmp_path}")
        return tmp_path

    def test_plain_json_is_read_from_the_body(self, folder: Path) -> None:
        (folder / "body.json").write_text(json.dumps({"names": ["a"], "items": [ORDER]}))
        row = SimpleNamespace(value=f"file://{folder}/body.json")

        assert plain_json(row, "It") == {"names": ["a"], "items": [ORDER]}

    def test_a_body_that_is_gone_or_damaged_is_told_apart(self, folder: Path) -> None:
        (folder / "damaged.json").write_text("{")
        with pytest.raises(FileNotFoundError, match=r"gone\.json"):
            plain_json(SimpleNamespace(value=f"file://{folder}/gone.json"), "It")
        with pytest.raises(UnreadableValueError, match="It can't be read: JSONDecodeError"):
            plain_json(SimpleNamespace(value=f"file://{folder}/damaged.json"), "It")

    def test_what_only_looks_like_a_path_is_no_body(self, folder: Path) -> None:
        (folder / "body.json").write_text("1")
        there, gone = f"file://{folder}/body.json", f"file://{folder}/gone.json"

        assert lost_bodies([there, gone, f"{there}\0", 3, "text"]) == [gone, f"{there}\0"]
