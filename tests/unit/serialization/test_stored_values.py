from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.xcom import BaseXCom

from airflow_fanout.serialization.stored_values import deserialized


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
