from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_fanout import FanInOperator
from airflow_fanout.get_provider_info import get_provider_info
from airflow_fanout.operators.link import FanOutLink
from airflow_fanout.ui.plugin import FanOutPlugin

pytestmark = pytest.mark.unit


def test_the_fan_in_links_to_the_tab_of_its_run_below_airflows_own_address() -> None:
    with DAG("a.dag"):
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process_")
    key: Any = SimpleNamespace(dag_id="a.dag", run_id="manual__2026-11-21T10:42:33+00:00/x")

    (link,) = fan_in.operator_extra_links

    assert link.get_link(fan_in, ti_key=key) == (
        "dags/a.dag/runs/manual__2026-11-21T10%3A42%3A33%2B00%3A00%2Fx/plugin/fan-out"
    )


def test_the_provider_registers_the_link_and_the_plugin() -> None:
    info = get_provider_info()

    assert info["extra-links"] == [f"{FanOutLink.__module__}.{FanOutLink.__qualname__}"]
    assert info["plugins"] == [
        {"name": FanOutPlugin.name, "plugin-class": f"{FanOutPlugin.__module__}.{FanOutPlugin.__qualname__}"}
    ]


def test_the_tabs_are_on_every_run_and_dag_and_their_addresses_are_below_airflows_own() -> None:
    view, history = FanOutPlugin.external_views
    (app,) = FanOutPlugin.fastapi_apps

    assert (view["destination"], view["url_route"]) == ("dag_run", "fan-out")
    assert view["href"] == "fan-out/dags/{DAG_ID}/page/{RUN_ID}"
    assert (history["destination"], history["url_route"]) == ("dag", "fan-out-history")
    assert history["href"] == "fan-out/dags/{DAG_ID}/history"
    assert app["url_prefix"] == "/fan-out"
