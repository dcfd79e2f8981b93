from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

from sqlalchemy.orm import Session

from airflow_fanout.metadata import runs
from airflow_fanout.metadata.runs import UnknownDagError

if TYPE_CHECKING:
    import pytest


def test_a_dag_is_made_of_its_serialized_form_once_until_that_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "outline", lambda dag: dag)
    session = mock.Mock(spec=Session)
    session.get.side_effect = [mock.Mock(dag="as it was"), mock.Mock(dag="as it is")]

    made: list[Any] = [
        runs._outline_of("own id", dag_hash, session=session) for dag_hash in ("a", "a", "b", "b", "a")
    ]

    assert made == ["as it was", "as it was", "as it is", "as it is", "as it was"]


def test_dags_like_an_unknown_one_are_looked_for_when_the_text_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close_to = mock.Mock(return_value="did you mean 'etl'?")
    monkeypatch.setattr(runs, "close_to", close_to)

    error = UnknownDagError("There is no Dag 'etk'", "etk", ["etl"])

    assert close_to.call_count == 0
    assert str(error) == "There is no Dag 'etk'; did you mean 'etl'?"
