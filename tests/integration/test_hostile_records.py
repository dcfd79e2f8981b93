"""Whatever lies under this package's keys in SQLite, NaN too, is read; tests of the routes use PostgreSQL."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_fanout.metadata.clearing import find_plan
from airflow_fanout.metadata.runs import find_run, read_run
from airflow_fanout.reports.branches import items_of_batch
from airflow_fanout.reports.group_capacity import SchedulingLimits
from airflow_fanout.reports.group_report import to_json
from airflow_fanout.reports.rerun import plan_as_json
from airflow_fanout.reports.run_report import item_page, report_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAG_FILE = Path(__file__).parents[1] / "ui" / "dags" / "tab_items.py"
DAG_ID = "tab_items"
EVERY, LEAST = 5, 300
LIMITS = SchedulingLimits(pools={"default_pool": 128})


def test_report_items_and_plan_of_each_run_are_json() -> None:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.dagbag import DBDagBag
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    from tests.ui.write_items import Writer, write_hostile

    with create_session() as session:
        manager: Any = DagBundlesManager
        manager().sync_bundles_to_db(session=session)
        session.commit()
        sync_bag_to_db(DagBag(DAG_FILE, bundle_name="dags-folder"), "dags-folder", None, session=session)
        dag: Any = DBDagBag().get_latest_version_of_dag(DAG_ID, session=session)
        dag.create_dagrun(
            run_id="like",
            run_after=datetime.now(UTC),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.CLI,
            state="queued",
            session=session,
        )
        session.flush()
        titles = write_hostile(session, Writer(session, (DAG_ID, "like")), EVERY)
        assert len(titles) >= LEAST
        assert any(title.startswith("names") for title in titles.values())
        for run_id, title in titles.items():
            run = find_run(DAG_ID, run_id, session=session)
            batch = read_run(run, batch=("docs", 0), session=session)
            answers = (
                report_of(pickle.loads(pickle.dumps(read_run(run, session=session))), LIMITS),
                item_page(items_of_batch(batch, "docs", 0), start=0, size=100),
                plan_as_json(find_plan(DAG_ID, run_id, session=session)),
            )
            for answer in answers:
                assert len(json.dumps(answer, default=to_json, allow_nan=False)) < 100_000, title
        session.rollback()
