from __future__ import annotations

import json
import string
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.operators.batch import BatchOperator
from airflow_fanout.rules.names import indexed_names
from airflow_fanout.rules.policy import Policy
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredFanIn, DeclaredGroup

NAMES = st.text(string.ascii_letters + string.digits + "_-.äß名", min_size=1, max_size=8)
ETL = (".extract", ".steps.transform", ".load")
LIMITS = st.none() | st.integers(1, 9)


def static_group(names: list[str], kinds: list[tuple[str, ...]], prefix: str = "many.") -> DeclaredGroup:
    """A group whose branches have tasks with these endings, in turn."""
    return DeclaredGroup(
        group_id="many",
        prefix=prefix,
        branches=tuple(
            DeclaredBranch(
                name=name,
                task_ids=tuple(f"{prefix}{name}{ending}" for ending in kinds[index % len(kinds)]),
            )
            for index, name in enumerate(names)
        ),
    )


def fan_in_with(
    policy: Policy | None = None, *, group: DeclaredGroup | None = None, key: str = "return_value"
) -> DeclaredFanIn:
    return DeclaredFanIn(group=group, task_id_prefix=None, key=key, policy=policy or Policy())


static_groups = st.builds(
    static_group,
    names=st.lists(NAMES, unique=True, max_size=40)
    | st.integers(0, 40).map(lambda n: [*indexed_names("p", n)]),
    kinds=st.lists(st.sampled_from([("",), ETL, (".load",), (".é", ".x")]), min_size=1, max_size=3),
    prefix=st.sampled_from(["", "process.", "a.b."]),
)
mapped_groups = st.builds(
    DeclaredGroup,
    group_id=NAMES,
    prefix=NAMES,
    branches=st.just(()),
    mode=st.sampled_from(["mapped", "batched"]),
    label=NAMES,
    names=st.none() | st.lists(NAMES, unique=True).map(tuple),
    count=st.none() | st.integers(0, 99),
    each=st.lists(NAMES, min_size=1).map(tuple),
    stop_after_failures=LIMITS,
    max_concurrency=LIMITS,
    items_per_task=LIMITS,
    item_concurrency=LIMITS,
    item_timeout=st.none() | st.floats(0.001, 1e6),
    item_executor=st.sampled_from([None, "thread", "process"]),
    combined=st.booleans(),
    items_per_second=st.none() | st.floats(0.01, 100),
)
policies = st.builds(
    Policy,
    min_success=LIMITS,
    min_success_ratio=st.none() | st.fractions(Fraction(1, 1_000), 1),
    count_skipped=st.sampled_from(["exclude", "success", "failure"]),
    on_empty=st.sampled_from(["succeed", "fail", "skip"]),
)


@given(group=static_groups | mapped_groups)
def test_a_group_survives_whole(group: DeclaredGroup) -> None:
    assert DeclaredGroup.from_json(group.to_json()) == group


@given(
    fan_in=st.builds(
        DeclaredFanIn,
        group=st.none() | static_groups,
        task_id_prefix=st.none() | st.text(),
        key=st.text(),
        policy=policies,
    )
)
def test_a_fan_in_survives_whole(fan_in: DeclaredFanIn) -> None:
    assert DeclaredFanIn.from_json(fan_in.to_json()) == fan_in


@pytest.mark.parametrize(
    "ratio", [0.28, 1, 1.0, 1e-07, Fraction(1, 3), Decimal("0.280"), Decimal("1E-7")], ids=repr
)
def test_a_ratio_needs_the_same_after_it_was_read(ratio: Any) -> None:
    policy = Policy(min_success_ratio=ratio)

    read = DeclaredFanIn.from_json(fan_in_with(policy).to_json()).policy

    assert [read.needed(count) for count in range(200)] == [policy.needed(count) for count in range(200)]


@pytest.mark.parametrize(
    ("policy", "on_empty"),
    [
        pytest.param(Policy(), "succeed", id="without a tolerance"),
        pytest.param(Policy(min_success=1), "fail", id="with one"),
    ],
)
def test_the_default_of_on_empty_is_written_out(policy: Policy, on_empty: str) -> None:
    assert DeclaredFanIn.from_json(fan_in_with(policy).to_json()).policy.on_empty == on_empty


@pytest.mark.parametrize("kind", [("",), ETL], ids=["one task", "several tasks"])
def test_many_numbered_branches_take_little_room(kind: tuple[str, ...]) -> None:
    group = static_group(list(indexed_names("process", 20_000)), [kind])

    assert len(fan_in_with(group=group).to_json()) < 400


def work(item: Any = None) -> Any:
    return item


def long_names(count: int) -> dict[str, int]:
    numbers = list(range(count))
    Random(0).shuffle(numbers)
    return {f"{'long' * 15}_{number}": number for number in numbers}


def stored(dag: DAG) -> Any:
    """The Dag as it comes from the database."""
    data = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    DagSerialization.validate_schema(data)
    return DagSerialization.from_dict(data)


@pytest.mark.parametrize(
    "declaration",
    [
        pytest.param({}, id="static"),
        pytest.param({"mapped": True}, id="mapped"),
        pytest.param({"items_per_task": 50}, id="batched"),
    ],
)
def test_long_names_of_thousands_come_back_from_the_database(declaration: dict[str, Any]) -> None:
    with DAG("d", schedule=None) as dag:
        names = long_names(2_000)
        group = FanOutGroup("g", branch=work, items=names, stop_after_failures=1, **declaration)
        FanInOperator(task_id="combine", fan_out=group, key="return_value")
    read = stored(dag)

    assert DeclaredFanIn.from_json(read.get_task("combine").declared_fan_in).group == group.declared
    if declaration.get("items_per_task"):
        each = read.get_task("g.each")
        assert DeclaredGroup.from_json(each.partial_kwargs["declared_group"]) == group.declared


def test_a_prefix_comes_back_from_the_database_as_it_was_written() -> None:
    with DAG("d", schedule=None) as dag:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="{{ ds }}{# note #}{%", key="ключ\n{{ x }}")

    read = DeclaredFanIn.from_json(stored(dag).get_task("combine").declared_fan_in)

    assert (read.group, read.task_id_prefix, read.key) == (None, fan_in.task_id_prefix, fan_in.key)


@pytest.mark.parametrize(
    "how", [{}, {"mapped": True}, {"items_per_task": 1}], ids=["static", "mapped", "batched"]
)
def test_branches_in_another_order_make_a_new_version_of_the_dag(how: Any) -> None:
    # The group's documentation tells the first 20 names.
    shown, last = [f"shown_{number}" for number in range(20)], ["a", "b"]
    hashes = set()
    for names in ([*shown, *last], [*shown, *reversed(last)]):
        with DAG("d", schedule=None) as dag:
            group = FanOutGroup("g", branch=work, items=dict.fromkeys(names), **how)
            FanInOperator(task_id="combine", fan_out=group)
        hashes.add(SerializedDagModel.hash(DagSerialization.to_dict(dag)))  # type: ignore[no-untyped-call]

    assert len(hashes) == 2


@pytest.mark.parametrize("operator", [FanInOperator, BatchOperator])
def test_what_is_declared_is_not_among_the_rendered_templates(operator: Any) -> None:
    assert not {"declared_fan_in", "declared_group"} & {*operator.template_fields}
