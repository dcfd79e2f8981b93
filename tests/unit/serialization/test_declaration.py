from __future__ import annotations

import json
import string
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.serialization.helpers import serialize_template_field
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout import FanInOperator
from airflow_fanout.rules.names import indexed_names, natural_key
from airflow_fanout.rules.policy import Policy
from airflow_fanout.serialization.declaration import (
    DeclaredBranch,
    DeclaredFanIn,
    DeclaredGroup,
    describe_fan_in,
    read_fan_in,
)

names_strategy = st.text(string.ascii_letters + string.digits + "_-.äß名", min_size=1, max_size=8)
policies = st.builds(
    Policy,
    min_success=st.none() | st.integers(1, 100),
    min_success_ratio=st.none() | st.integers(1, 100).map(lambda number: Fraction(number, 100)),
    count_skipped=st.sampled_from(["exclude", "success", "failure"]),
    on_empty=st.sampled_from(["succeed", "fail", "skip"]),
)


def describe(
    *,
    group: DeclaredGroup | None = None,
    task_id_prefix: str | None = None,
    key: str = "return_value",
    policy: Policy | None = None,
) -> str:
    return describe_fan_in(
        DeclaredFanIn(group=group, task_id_prefix=task_id_prefix, key=key, policy=policy or Policy())
    )


def group_of(*names: str, group_id: str = "outer.process", prefix: str = "outer.process.") -> DeclaredGroup:
    return DeclaredGroup(
        group_id=group_id,
        prefix=prefix,
        branches=tuple(
            DeclaredBranch(name=name, index=index, task_ids=(prefix + name,))
            for index, name in enumerate(names)
        ),
    )


def task_ids_of(group: DeclaredGroup, *others: str) -> list[str]:
    """All task ids of the Dag, sorted, as a serialized Dag has them."""
    return sorted([*(task_id for branch in group.branches for task_id in branch.task_ids), *others])


def shuffled(names: list[str]) -> list[str]:
    mixed = list(names)
    Random(0).shuffle(mixed)
    return mixed


def long_names(count: int, length: int = 60) -> list[str]:
    return shuffled([f"{'x' * (length - 4)}_{index:03}" for index in range(count)])


def reads_back(group: DeclaredGroup, *others: str) -> DeclaredGroup | None:
    """The group after Airflow has put its description into a serialized Dag."""
    text = serialize_template_field(describe(group=group), "declaration")
    assert isinstance(text, str)
    return read_fan_in(text, task_ids=task_ids_of(group, *others)).group


@given(
    names=st.lists(names_strategy, unique=True, max_size=40), prefix=st.sampled_from(["", "process.", "a.b."])
)
def test_names_and_their_order_survive(names: list[str], prefix: str) -> None:
    group = group_of(*names, prefix=prefix)

    assert reads_back(group, "load", "combine") == group


@given(key=st.text(min_size=1, max_size=10), policy=policies)
def test_key_and_policy_survive(key: str, policy: Policy) -> None:
    text = describe(key=key, policy=policy, group=group_of("a"))

    declared = read_fan_in(text, task_ids=["outer.process.a"])
    assert (declared.key, declared.policy) == (key, policy)


@pytest.mark.parametrize(
    "ratio",
    [0.28, 1, 1.0, 1e-07, Fraction(1, 3), Decimal("0.280"), Decimal("1E-7")],
    ids=repr,
)
def test_a_ratio_needs_the_same_after_it_was_read(ratio: Any) -> None:
    policy = Policy(min_success_ratio=ratio)

    read = read_fan_in(describe(key="k", policy=policy, group=group_of()), task_ids=[]).policy

    assert [read.needed(counted) for counted in range(200)] == [
        policy.needed(counted) for counted in range(200)
    ]


@pytest.mark.parametrize(
    ("policy", "when_empty"),
    [
        pytest.param(Policy(), "succeed", id="without a tolerance"),
        pytest.param(Policy(min_success=1), "fail", id="with one"),
    ],
)
def test_the_default_of_on_empty_is_written_out(policy: Policy, when_empty: str) -> None:
    text = describe(key="k", policy=policy, group=group_of())

    assert read_fan_in(text, task_ids=[]).policy.on_empty == when_empty


@pytest.mark.parametrize("prefix", ["many.", ""], ids=["prefixed", "unprefixed"])
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(long_names(500), id="500 names of 60 characters, shuffled"),
        pytest.param(sorted(long_names(500)), id="500 names of 60 characters, in natural order"),
        pytest.param(long_names(60, length=200), id="60 names of 200 characters, shuffled"),
        pytest.param(
            shuffled([f"{'名' * 20}_{index}" for index in range(100)]), id="100 names of 20 CJK characters"
        ),
        pytest.param(list(indexed_names("process", 5000)), id="5,000 indexed names"),
    ],
)
def test_many_long_names_survive_airflows_limit(names: list[str], prefix: str) -> None:
    group = group_of(*names, group_id="many", prefix=prefix)

    assert reads_back(group, "load", "combine", "zzz_after", "xxx_other") == group


def test_of_even_more_names_all_survive_in_natural_order() -> None:
    """Their own order would not fit into a template field."""
    names = long_names(2000)

    read = reads_back(group_of(*names, group_id="many", prefix="many."))

    assert read is not None
    assert [branch.name for branch in read.branches] == sorted(names, key=natural_key)


def test_a_task_that_the_author_added_to_the_group_is_no_branch() -> None:
    group = group_of(*long_names(500), group_id="many", prefix="many.")

    assert reads_back(group, "many.aaa_own_task") == group


def test_a_branch_of_several_tasks_keeps_their_ids() -> None:
    branch = DeclaredBranch(name="a", index=0, task_ids=("p.a.first", "p.a.last"))
    single = DeclaredBranch(name="b", index=1, task_ids=("p.b",))
    group = DeclaredGroup(group_id="p", prefix="p.", branches=(branch, single))

    assert reads_back(group) == group
    assert branch.last_task_id == "p.a.last"


def test_the_description_of_many_indexed_names_is_small() -> None:
    group = group_of(*indexed_names("process", 20_000))

    assert len(describe(group=group)) < 300


BRACES = [
    pytest.param("{{ ds }}", id="an expression"),
    pytest.param("{{{{", id="four braces"),
    pytest.param("{{{%", id="three and a block"),
    pytest.param("{% if x %}", id="a block"),
    pytest.param("{%- raw -%}", id="a raw block"),
    pytest.param("{# note #}", id="a comment"),
    pytest.param("{", id="one brace"),
    pytest.param("}}", id="closing braces"),
    pytest.param('quoted "{{ x }}"', id="quotes"),
    pytest.param("line\n{{ end }}", id="a line end"),
    pytest.param("\\{{ x }}", id="a backslash"),
]


@pytest.mark.parametrize("text", BRACES)
def test_rendering_changes_nothing_in_a_description(text: str) -> None:
    with DAG("braces", schedule=None) as dag:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="p", key=text)
        fan_in.declaration = described = describe(key=text, task_id_prefix=text)
    fan_in.render_template_fields({"dag": dag})

    assert fan_in.declaration == described
    declared = read_fan_in(fan_in.declaration, task_ids=[])
    assert (declared.task_id_prefix, declared.key) == (text, text)


@given(text=st.text('{}%#-"\\ x', min_size=1))
def test_a_description_holds_nothing_that_a_template_engine_looks_for(text: str) -> None:
    described = describe(key=text, task_id_prefix=text)

    assert not any(opening in described for opening in ("{{", "{%", "{#"))
    declared = read_fan_in(described, task_ids=[])
    assert (declared.task_id_prefix, declared.key) == (text, text)


def test_a_description_is_one_line_of_ascii_json() -> None:
    described = describe(key="schlüssel\n", group=group_of("名前"))

    assert described.isascii()
    assert "\n" not in described
    assert json.loads(described)["key"] == "schlüssel\n"


AIRFLOWS_LIMIT = 4_096


def several(
    names: list[str], kinds: list[tuple[str, ...]], *, prefix: str = "many.", limit: int | None = None
) -> DeclaredGroup:
    """A group whose branches have tasks with these endings, in turn."""
    return DeclaredGroup(
        group_id="many",
        prefix=prefix,
        branches=tuple(
            DeclaredBranch(
                name=name,
                index=index,
                task_ids=tuple(f"{prefix}{name}{ending}" for ending in kinds[index % len(kinds)]),
            )
            for index, name in enumerate(names)
        ),
        stop_after_failures=limit,
    )


def read_again(group: DeclaredGroup, *others: str) -> DeclaredGroup | None:
    """The group from its description, with what a serialized Dag tells of the tasks."""
    text = describe(group=group)
    assert len(text) < AIRFLOWS_LIMIT
    lasts = [branch.last_task_id for branch in group.branches]
    return read_fan_in(text, task_ids=task_ids_of(group, *others), upstream_task_ids=lasts).group


ETL = (".extract", ".transform", ".load")
LONG = tuple(f".{'step' * 20}_{index}" for index in range(60))


@pytest.mark.parametrize("prefix", ["many.", ""], ids=["prefixed", "unprefixed"])
@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        pytest.param(list(indexed_names("process", 1000)), [ETL], id="all alike"),
        pytest.param(["a", "b", "c"], [ETL, ("",), (".only",)], id="different endings"),
        pytest.param(["a.b", "c"], [("",), ETL], id="a name with a dot beside a task group"),
        pytest.param(long_names(400), [ETL], id="long names"),
        pytest.param(long_names(200), [ETL, ("",)], id="long names, different endings"),
        pytest.param(list(indexed_names("process", 400)), [(".steps.extract", ".load")], id="inner groups"),
    ],
)
def test_branches_of_several_tasks_survive(
    names: list[str], kinds: list[tuple[str, ...]], prefix: str
) -> None:
    group = several(names, kinds, prefix=prefix)

    assert read_again(group, "load", "combine", "zzz_after") == group


@pytest.mark.parametrize("limit", [None, 1, 7])
def test_the_number_of_failures_that_stops_a_group_survives(limit: int | None) -> None:
    group = several(["a", "b"], [ETL], limit=limit)

    assert read_again(group) == group


@given(
    names=st.lists(st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8), unique=True),
    kinds=st.lists(st.sampled_from([("",), ETL, (".load",), (".a.b", ".c"), (".é", ".x")]), min_size=1),
    limit=st.none() | st.integers(1, 9),
)
def test_whatever_branches_there_are_they_survive(
    names: list[str], kinds: list[tuple[str, ...]], limit: int | None
) -> None:
    group = several(names, kinds, limit=limit)

    assert read_again(group) == group


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        pytest.param(list(indexed_names("process", 3)), [LONG], id="many long steps"),
        pytest.param(long_names(300), [LONG], id="many long steps and long names"),
        pytest.param(
            list(indexed_names("process", 100)),
            [(f".extract_{index}", f".load_{index}") for index in range(100)],
            id="steps that are named after their branch",
        ),
        pytest.param(
            long_names(300),
            [(f".extract_{index}", f".load_{index}") for index in range(300)],
            id="the same with long names",
        ),
        pytest.param(list(indexed_names("process", 3000)), [ETL, ("",)], id="3,000 of two kinds"),
        pytest.param(long_names(600), [ETL, ("",)], id="600 of two kinds with long names"),
    ],
)
def test_of_what_is_too_much_to_say_names_last_tasks_and_all_tasks_survive(
    names: list[str], kinds: list[tuple[str, ...]]
) -> None:
    group = several(names, kinds)

    read = read_again(group, "load", "many_other.x", "combine")

    assert read is not None
    by_name = {branch.name: branch for branch in read.branches}
    assert sorted(by_name) == sorted(names)
    for branch in group.branches:
        assert by_name[branch.name].last_task_id == branch.last_task_id
        assert sorted(by_name[branch.name].task_ids) == sorted(branch.task_ids)


def test_without_a_prefix_other_tasks_are_no_branches_of_even_more_names() -> None:
    names = long_names(2000)

    read = read_again(several(names, [("",)], prefix=""), "load", "combine")

    assert read is not None
    assert [branch.name for branch in read.branches] == sorted(names, key=natural_key)


def test_a_teardown_is_not_among_the_tasks_where_they_are_said() -> None:
    group = several(["a", "b"], [ETL])

    assert read_again(group, "many.a.clear_up", "many.b.clear_up") == group
