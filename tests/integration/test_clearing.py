"""What a plan clears in a database, and what it leaves alone there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from airflow_fanout.metadata.clearing import PlanChangedError, clear, clear_as_shown, find_plan
from airflow_fanout.metadata.runs import UnknownDagError, UnknownRunError
from airflow_fanout.reports.rerun import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAG_FILE = Path(__file__).parents[2] / "dags" / "fan_out_fan_in_pipeline.py"
DAG_ID = "fan_out_fan_in_pipeline"


@pytest.fixture
def session() -> Iterator[Session]:
    from airflow.utils.session import create_session

    with create_session() as session:
        yield session
        session.rollback()


@pytest.fixture
def run_id(session: Session) -> str:
    """A failed run, of which two branches and all that comes after them are without success."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.dagbag import DBDagBag
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    manager: Any = DagBundlesManager
    manager().sync_bundles_to_db(session=session)
    session.commit()
    sync_bag_to_db(DagBag(DAG_FILE, bundle_name="dags-folder"), "dags-folder", None, session=session)
    dag: Any = DBDagBag().get_latest_version_of_dag(DAG_ID, session=session)
    run = dag.create_dagrun(
        run_id=f"run_{uuid4()}",
        run_after=datetime.now(UTC),
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.CLI,
        state="failed",
        session=session,
    )
    states = {"process_1": "failed", "process_2": "upstream_failed", "combine": "failed"}
    for ti in run.get_task_instances(session=session):
        ti.state, ti.try_number = states.get(ti.task_id, "success"), 1
        add_value(ti, session)
    session.flush()
    return str(run.run_id)


def add_value(ti: TaskInstance, session: Session) -> None:
    from airflow.models.xcom import XComModel

    XComModel.set("return_value", 1, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, session=session)


def instances(run_id: str, session: Session) -> dict[str, Any]:
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    session.expire_all()
    found = session.scalars(select(TaskInstance).filter_by(dag_id=DAG_ID, run_id=run_id))
    return {ti.task_id: ti for ti in found}


def test_only_what_the_plan_names_is_cleared(run_id: str, session: Session) -> None:
    plan = find_plan(DAG_ID, run_id, session=session)
    done = clear(plan, causes=False, session=session)

    cleared = {task_run.task_id for task_run in done.cleared}
    assert cleared == {"process_1", "process_2", "combine"}
    states = {task_id: ti.state for task_id, ti in instances(run_id, session).items()}
    assert {task_id for task_id, state in states.items() if state is None} == cleared
    assert {states[task_id] for task_id in states.keys() - cleared} == {"success"}
    assert done.changed == ()


def test_the_run_is_queued_again(run_id: str, session: Session) -> None:
    clear(find_plan(DAG_ID, run_id, session=session), causes=False, session=session)

    run = instances(run_id, session)["combine"].dag_run
    assert (run.state, run.clear_number) == ("queued", 1)


@pytest.mark.parametrize("state", ["success", "running", "queued", None])
def test_what_has_changed_meanwhile_is_not_cleared(run_id: str, session: Session, state: str | None) -> None:
    plan = find_plan(DAG_ID, run_id, session=session)
    instances(run_id, session)["process_1"].state = state
    session.flush()

    done = clear(plan, causes=False, session=session)

    assert [task_run.task_id for task_run in done.changed] == ["process_1"]
    assert instances(run_id, session)["process_1"].state == state
    assert instances(run_id, session)["combine"].state is None


def test_more_than_one_query_holds_are_cleared(
    run_id: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_fanout.metadata.clearing.PAGE", 2)
    plan = find_plan(DAG_ID, run_id, session=session)

    done = clear(plan, causes=False, session=session)

    assert len(done.cleared) == len(plan.task_runs) > 2
    assert {instances(run_id, session)[cleared.task_id].state for cleared in done.cleared} == {None}
    assert instances(run_id, session)["combine"].dag_run.clear_number == 1


def test_a_run_or_dag_that_is_not_there_is_an_error(run_id: str, session: Session) -> None:
    with pytest.raises(UnknownRunError, match="has no run 'another'"):
        find_plan(DAG_ID, "another", session=session)
    with pytest.raises(UnknownDagError, match="no Dag 'another'"):
        find_plan("another", run_id, session=session)


def test_another_try_in_the_same_state_is_not_cleared(run_id: str, session: Session) -> None:
    plan = find_plan(DAG_ID, run_id, session=session)
    instances(run_id, session)["process_1"].try_number = 2
    session.flush()

    done = clear(plan, causes=False, session=session)

    assert [task_run.task_id for task_run in done.changed] == ["process_1"]


class TestAsShown:
    def test_what_was_shown_is_cleared(self, run_id: str, session: Session) -> None:
        shown = fingerprint(find_plan(DAG_ID, run_id, session=session))

        planned, done = clear_as_shown(DAG_ID, run_id, shown, group_ids=None, causes=False, session=session)

        assert done.cleared == planned.task_runs
        assert {ti.state for ti in instances(run_id, session).values()} == {"success", None}

    def test_what_failed_alike_again_is_not(self, run_id: str, session: Session) -> None:
        shown = fingerprint(find_plan(DAG_ID, run_id, session=session))
        clear_as_shown(DAG_ID, run_id, shown, group_ids=None, causes=False, session=session)
        for ti in instances(run_id, session).values():
            if ti.state is None:
                ti.state, ti.try_number = "failed", 2
        session.flush()

        with pytest.raises(PlanChangedError, match="has changed"):
            clear_as_shown(DAG_ID, run_id, shown, group_ids=None, causes=False, session=session)

    def test_of_those_who_clear_at_the_same_time_one_wins(self, run_id: str, session: Session) -> None:
        from airflow.utils.session import create_session

        session.commit()
        shown = fingerprint(find_plan(DAG_ID, run_id, session=session))
        session.commit()

        def clear_it(_: int) -> int:
            try:
                with create_session(scoped=False) as own:
                    done = clear_as_shown(DAG_ID, run_id, shown, group_ids=None, causes=False, session=own)
            except PlanChangedError:
                return 0
            return len(done[1].cleared)

        with ThreadPoolExecutor(8) as threads:
            cleared = list(threads.map(clear_it, range(8)))

        assert sorted(cleared) == [0] * 7 + [3]
        assert instances(run_id, session)["combine"].dag_run.clear_number == 1
