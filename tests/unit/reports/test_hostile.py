"""Report, items and plan of a run in which anything may lie under this package's keys."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.branches import items_of_batch
from airflow_fanout.reports.group_capacity import SchedulingLimits
from airflow_fanout.reports.group_report import to_json
from airflow_fanout.reports.rerun import fingerprint, plan_as_json, plan_rerun
from airflow_fanout.reports.run_report import FUNCTION_TASK, item_page, report_of
from airflow_fanout.rules.records import bounds_in, names_in, yielded_in
from airflow_fanout.serialization.outline import TaskOutline
from tests.support.hostile import BATCHES, BRANCHES, Case, cases, good_batch
from tests.unit.run_facts import NOON, batched, facts_of, mapped, of_group, ran

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import RunFacts

MOST_BYTES = 100_000
"""An answer of a run of fifteen branches, each named with its error some times, fits in that."""

LASTED: Any = {"tries": 1, "value": "present", "ended": NOON + timedelta(seconds=9)}

LIMITS = SchedulingLimits(pools={"default_pool": 128})


def facts(case: Case) -> RunFacts:
    bounds, yielded = bounds_in(case.cuts), yielded_in(case.items)
    return facts_of(
        [
            *(
                ran("docs.each", n, case.state, record=case.batches.get(n, good_batch(n)), **LASTED)
                for n in range(BATCHES)
            ),
            *(
                ran("load.each", n, case.state, record=case.branches.get(n), **LASTED)
                for n in range(BRANCHES)
            ),
            *(ran(task_id) for task_id in ("docs.split", "list", "collect_docs")),
            ran("collect_load", state="failed"),
        ],
        batched(items_per_task=4, items_from="list"),
        mapped("load.each", items_from="list"),
        tasks={
            task_id: TaskOutline(task_id=task_id, operator=FUNCTION_TASK, is_mapped=True)
            for task_id in ("docs.each", "load.each")
        },
        fan_ins=[of_group("docs", "collect_docs"), of_group("load", "collect_load")],
        bounds={} if bounds is None else {"docs.split": bounds},
        batch_names={
            ("docs.split", n): names
            for n, value in case.names.items()
            if (names := names_in(value)) is not None
        },
        yielded={} if yielded is None else {"load": yielded},
    )


def answers(facts: RunFacts) -> dict[str, Any]:
    plan = plan_rerun(facts, setups_and_teardowns=lambda _: ())
    items = [items_of_batch(facts, "docs", number) for number in range(BATCHES)]
    return {
        "report": report_of(facts, LIMITS),
        "plan": {**plan_as_json(plan), "plan": fingerprint(plan)},
        **{f"items {n}": item_page(page, start=0, size=100) for n, page in enumerate(items)},
    }


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_every_answer_is_small_json_without_infinity(case: Case) -> None:
    for name, answer in answers(facts(case)).items():
        text = json.dumps(answer, default=to_json, allow_nan=False).encode()
        assert len(text) <= MOST_BYTES, name
        json.loads(text)
