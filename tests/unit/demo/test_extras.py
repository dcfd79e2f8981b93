from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_fanout.demo.extras import needs_extra
from airflow_fanout.exceptions import MissingExtraError


def test_a_missing_module_says_what_to_install_and_is_not_retried() -> None:
    with pytest.raises(MissingExtraError) as raised, needs_extra("examples"):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401

    assert str(raised.value) == "'no_such_module' is not installed: pip install \"airflow-fanout[examples]\""
    assert (raised.value.extra, raised.value.module) == ("examples", "no_such_module")
    assert isinstance(raised.value, AirflowFailException)


def test_another_error_of_the_import_stays_what_it_is() -> None:
    with pytest.raises(ImportError, match="cannot import name"), needs_extra("examples"):
        from json import no_such_name  # type: ignore[attr-defined]  # noqa: F401
