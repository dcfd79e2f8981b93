"""Items whose values go to several arguments: a cross product, and dicts."""

from __future__ import annotations

from datetime import date
from typing import Any
from unittest import mock

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, XComArg, task, task_group
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup, product
from airflow_fanout.decorators import fan_out
from airflow_fanout.definitions.product import ProductOfOutputs
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, ItemsError
from airflow_fanout.execution_time.items import KwargsItems
from airflow_fanout.testing import simulate
from tests.unit.fake_batch import run_batch

pytestmark = pytest.mark.usefixtures("dag")


def load(region: str, day: Any, lang: str = "en") -> str:
    return f"{region} {day} {lang}"


@task
def regions() -> list[str]:
    return ["emea", "apac"]


@task
def use(value: Any) -> Any:
    return value


@task_group
def steps(region: str, day: Any, lang: str = "en") -> Any:
    return use(use([region, day, lang]))


DAYS = [date(2026, 1, 1), date(2026, 1, 2)]
NAMES = ["emea-2026-01-01", "emea-2026-01-02", "apac-2026-01-01", "apac-2026-01-02"]


def declare(**arguments: Any) -> FanOutGroup:
    items = product(region=["emea", "apac"], day=DAYS)
    return FanOutGroup("load", **{"branch": load, "items": items, **arguments})


def items_of(made: KwargsItems) -> Any:
    return made.items


class TestNames:
    @pytest.mark.parametrize(
        ("parts", "names"),
        [
            pytest.param({"region": ["emea", "apac"], "day": DAYS}, NAMES, id="texts and dates"),
            pytest.param(
                {"n": [1, -2], "x": [0.5, None]}, ["1-0.5", "1-None", "-2-0.5", "-2-None"], id="other"
            ),
            pytest.param({"word": ["a b/c", "ü"]}, ["a_b_c", "ü"], id="what an id can't have"),
            pytest.param(
                {"model": [{"k": 1}, object(), ""]}, ["model_0", "model_1", "model_2"], id="no text"
            ),
            pytest.param({"model": {"small": {"k": 1}}, "n": (1,)}, ["small-1"], id="a mapping's keys"),
            pytest.param({"region": ["emea"], "day": []}, [], id="nothing of one"),
        ],
    )
    def test_a_combination_is_named_by_its_values(self, parts: Any, names: list[str]) -> None:
        assert list(items_of(product(**parts))) == names

    def test_a_mappings_values_are_the_arguments(self) -> None:
        assert items_of(product(model={"small": {"k": 1}}, n=[2])) == {"small-2": {"model": {"k": 1}, "n": 2}}


class TestModes:
    def test_a_static_branch_is_a_task_for_each_combination(self) -> None:
        group = declare()

        assert [each.task_id for each in group] == [f"load.{name}" for name in NAMES]
        assert [each.op_kwargs for each in group][1] == {"region": "emea", "day": DAYS[1]}

    @pytest.mark.parametrize("branch", [load, task(load), steps], ids=["plain", "@task", "@task_group"])
    def test_mapped_instances_have_the_names(self, dag: DAG, branch: Any) -> None:
        group = declare(branch=branch, mapped=True)
        FanInOperator(task_id="collect", fan_out=group)

        assert group.declared.names == tuple(NAMES)
        assert [group.branch_name(index) for index in range(4)] == NAMES
        assert DagSerialization.to_dict(dag) == DagSerialization.to_dict(dag)

    def test_a_task_groups_defaults_are_among_the_values_of_each_instance(self) -> None:
        group = declare(branch=steps, mapped=True)

        (inner,) = group.children.values()
        value: Any = inner._expand_input.value  # type: ignore[attr-defined]
        assert value[0] == {"region": "emea", "day": DAYS[0], "lang": "en"}

    @pytest.mark.parametrize("executor", ["thread", "process"])
    def test_items_of_a_batch_get_the_values_as_arguments(self, executor: Any) -> None:
        group = declare(items_per_task=4, item_executor=executor, partial={"lang": "de"})

        ran = run_batch(group)
        assert ran.value == {
            name: f"{item['region']} {item['day']} de"
            for name, item in zip(
                NAMES, items_of(product(region=["emea", "apac"], day=DAYS)).values(), strict=True
            )
        }

    def test_items_of_a_batch_share_no_value(self) -> None:
        def grow(region: list[str], day: Any) -> int:
            region.append("x")
            return len(region)

        group = declare(branch=grow, items=product(region={"emea": []}, day=DAYS), items_per_task=2)

        assert run_batch(group).value == {"emea-2026-01-01": 1, "emea-2026-01-02": 1}

    def test_the_first_of_several_functions_gets_the_values(self) -> None:
        (first, *_) = declare(branch=[load, shout])

        assert first.python_callable("emea", 1) == "EMEA 1 EN"
        assert first.op_kwargs == {"region": "emea", "day": DAYS[0]}

    def test_an_operators_arguments_are_combined(self) -> None:
        items = product(bash_command={"count": "wc -l", "sum": "cksum"}, env={"a": {"F": "a"}})
        group = FanOutGroup("run", branch=BashOperator, items=items)

        assert [(each.task_id, each.env) for each in group] == [
            ("run.count-a", {"F": "a"}),
            ("run.sum-a", {"F": "a"}),
        ]

    @pytest.mark.parametrize("how", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    def test_an_output_among_the_values_is_combined_by_split(self, dag: DAG, how: Any) -> None:
        group = declare(items=product(region=regions(), day=DAYS), **how)

        assert [each.task_id for each in group.iter_tasks()] == ["load.split", "load.each"]
        assert dag.get_task("load.split").upstream_task_ids == {"regions"}
        assert group.declared.items_from == (None if how else "load.split")

    def test_nothing_to_combine_is_zero_branches(self) -> None:
        group = declare(items=product(region=[], day=DAYS))
        fan_in = FanInOperator(task_id="collect", fan_out=group)

        assert [each.task_id for each in group.iter_tasks()] == ["load.no_branches"]
        assert simulate(fan_in).return_value == {}


def shout(text: str) -> str:
    return text.upper()


def output(value: Any) -> Any:
    arg = mock.Mock(spec=XComArg)
    arg.resolve.return_value = value
    return arg


class TestAtRunTime:
    @staticmethod
    def resolve(**parts: Any) -> Any:
        rendering = mock.Mock()
        rendering.render_template.side_effect = lambda value, context: value
        return ProductOfOutputs(parts).resolve({"task": rendering})

    def test_names_and_values_are_those_of_literals(self) -> None:
        assert self.resolve(region=output(["emea"]), day=DAYS) == items_of(product(region=["emea"], day=DAYS))
        assert self.resolve(region=output({"north": 1}), day=[2]) == {"north-2": {"region": 1, "day": 2}}

    def test_nothing_from_a_task_is_nothing_and_not_zero_branches(self) -> None:
        assert self.resolve(region=output(None), day=DAYS) is None
        assert self.resolve(region=output([]), day=DAYS) == {}

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"region": output("emea"), "day": DAYS}, r"product\(region=…\): items: expected a list, or"),
            (
                {"region": output(["a", "a"]), "day": [1]},
                "'a-1' would be the name of both region='a', day=1 and",
            ),
        ],
    )
    def test_what_is_no_list_or_not_told_apart_is_refused(self, parts: Any, message: str) -> None:
        with pytest.raises(ItemsError, match=message):
            self.resolve(**parts)

    def test_an_item_that_does_not_fit_is_refused_by_its_instance(self) -> None:
        group = fan_out(load, mapped=True).expand_kwargs(regions())
        (each,) = group
        arguments: Any = each.op_kwargs_expand_input.value
        arguments.arg = output([{"region": "a", "day": 1}, {"regoin": "a"}])

        resolved = arguments.resolve({})
        assert {name: literal.value for name, literal in resolved[0].items()} == {"region": "a", "day": 1}
        with pytest.raises(
            ItemsError, match=r"an item gives 'regoin', which load.* does not take; did you mean"
        ):
            _ = resolved[1]

    def test_an_item_of_a_batch_that_does_not_fit_fails_alone(self) -> None:
        group = fan_out(load, items_per_task=2).expand_kwargs(regions())
        stored = {"names": None, "items": [{"region": "a", "day": 1}, "b"]}

        ran = run_batch(group, 0, 2, payload=stored)
        assert ran.pushed["return_value"] == {"load_0": "a 1 en"}
        assert "an item is 'b' of type str; expected a dict of arguments of load" in ran.record["errors"]["1"]


class TestDecorated:
    def test_several_arguments_are_a_product(self) -> None:
        group = fan_out(load).partial(lang="de").expand(region=["emea", "apac"], day=DAYS)

        assert [each.task_id for each in group] == [f"load.{name}" for name in NAMES]

    @pytest.mark.parametrize(
        ("dicts", "names"),
        [
            ([{"region": "a", "day": 1}, {"region": "b", "day": 2, "lang": "de"}], ["load_0", "load_1"]),
            ({"first": {"region": "a", "day": 1}}, ["first"]),
        ],
        ids=["a list", "by name"],
    )
    def test_dicts_give_their_values_to_parameters(self, dicts: Any, names: list[str]) -> None:
        group = fan_out(load).expand_kwargs(dicts)

        assert [each.task_id for each in group] == [f"load.{name}" for name in names]
        given = list(dicts.values()) if isinstance(dicts, dict) else dicts
        assert [each.op_kwargs for each in group] == given


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({}, DeclarationTypeError, r"arguments: expected the values of at least one argument: product\("),
        (
            {"region": "emea"},
            DeclarationTypeError,
            r"region: expected a list .* found 'emea' of type str; use",
        ),
        ({"region": {"a", "b"}}, DeclarationTypeError, "region: .*has no order; use sorted"),
        (
            {"region": 3},
            DeclarationTypeError,
            "region: expected a list or a mapping by name, found 3 of type",
        ),
        ({"region": {1: "a"}}, DeclarationTypeError, "region: expected texts as names, found 1 of type int"),
        (
            {"day": ["a-b", "a"], "region": ["c", "b-c"]},
            DeclarationValueError,
            "day: 'a-b-c' would be the name of both day='a-b', region='c' and day='a', region='b-c'; give",
        ),
    ],
)
def test_parts_that_make_no_product_are_refused(parts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"product: {message}"):
        product(**parts)


@pytest.mark.parametrize(
    ("branch", "mode"),
    [
        (load, {}),
        (load, {"mapped": True}),
        (load, {"items_per_task": 2}),
        (steps, {}),
        (steps, {"mapped": True}),
    ],
    ids=["static", "mapped", "batched", "static task group", "mapped task group"],
)
@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            product(regoin=["a"], day=[1]),
            "items: item 0 gives 'regoin', which .* does not take; did you mean 'reg",
        ),
        (product(region=["a"]), r"items: item 0 lacks 'day', which .* needs; add it, or bind it .*'day': …"),
        (product(lang=["a"], region=["a"], day=[1]), "items: item 0 gives 'lang', which is bound in every"),
        (KwargsItems(["a"]), "items: item 0 is 'a' of type str; expected a dict of arguments of"),  # type: ignore[list-item]
    ],
)
def test_arguments_that_do_not_fit_are_refused(branch: Any, mode: Any, items: Any, message: str) -> None:
    with pytest.raises(DeclarationTypeError, match=message):
        declare(branch=branch, items=items, partial={"lang": "de"}, **mode)


def test_arguments_of_a_product_are_checked_before_its_values_are_known() -> None:
    with pytest.raises(DeclarationTypeError, match=r"gives 'regoin', which load.* does not take"):
        declare(items=product(regoin=regions(), day=DAYS))


def test_what_airflow_gives_is_no_argument_of_a_product() -> None:
    with pytest.raises(DeclarationTypeError, match="item 0 gives 'ds', which Airflow gives to every task"):
        FanOutGroup("load", branch=lambda ds, region: ds, items=product(ds=["a"], region=["b"]))


def test_a_group_is_no_part_of_a_product() -> None:
    with pytest.raises(TypeError, match="a group has no single value"):
        product(region=FanOutGroup("g", branch=use, items=[1]))  # type: ignore[arg-type]
