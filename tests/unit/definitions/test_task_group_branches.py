from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.latest_only import LatestOnlyOperator
from airflow.providers.standard.operators.python import PythonOperator, ShortCircuitOperator
from airflow.sdk import DAG, BaseOperator, TaskGroup, setup, task, task_group, teardown
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.definitions import skippers
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time import recording
from airflow_fanout.operators import hooks
from tests.unit.refused import wrong_type, wrong_value

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


@task
def extract(item: Any = "text") -> Any:
    return item


@task
def transform(item: Any) -> Any:
    return item


@task
def load(item: Any) -> Any:
    return item


@task
def prepare() -> str:
    return "prepared"


@task
def clear_up() -> None: ...


@task_group
def etl(item: str = "text", table: str = "a table") -> Any:
    return load(transform(extract([item, table])))


def of_index(index: int) -> Any:
    return extract(index)


def of_item(item: Any) -> Any:
    return extract(item)


def of_ti(ti: Any) -> Any:
    return extract(ti)


def of_nothing() -> Any:
    return extract()


def declare(branch: Any = etl, group_id: str = "process", **declared: Any) -> FanOutGroup:
    if not isinstance(branch, dict) and "items" not in declared:
        declared = {"count": 2, **declared}
    return FanOutGroup(group_id, branch=branch, **declared)


def ids(group: FanOutGroup) -> dict[str, list[str]]:
    """Task ids of each branch by its name, in the order in which they run."""
    return {branch.name: list(branch.task_ids) for branch in group.declared.branches}


def first_ids(function: Callable[..., Any]) -> list[str]:
    """Task ids of the first branch of a function's, without the branch's own."""
    branch = declare(task_group(function)).declared.branches[0]
    return [task_id.removeprefix("process.process_0.") for task_id in branch.task_ids]


def first_given(group: FanOutGroup) -> list[Any]:
    """What the first task of each branch is called with."""
    tasks: list[Any] = [group.dag.get_task(branch.task_ids[0]) for branch in group.declared.branches]
    return [(*each.op_args, *each.op_kwargs.values())[0] for each in tasks]


def steps_of(prefix: str) -> list[str]:
    return [f"{prefix}.{step}" for step in ("extract", "transform", "load")]


class TestIds:
    @pytest.mark.parametrize(
        "branch",
        [etl, etl.override(group_id="mine"), etl.override(parent_group=None)],
        ids=["plain", "with an id", "with a place"],
    )
    @pytest.mark.parametrize(("prefixed", "prefix"), [(True, "process."), (False, "")])
    def test_each_branch_is_a_group_of_its_own(self, branch: Any, prefixed: bool, prefix: str) -> None:
        assert ids(declare(branch, prefix_group_id=prefixed)) == {
            "process_0": steps_of(f"{prefix}process_0"),
            "process_1": steps_of(f"{prefix}process_1"),
        }

    def test_names_are_the_keys_of_a_mapping(self) -> None:
        with TaskGroup("outer"):
            group = declare({"whole": etl, "short": task_group(lambda: extract("x")), "one": lambda: 1})

        assert ids(group) == {
            "whole": steps_of("outer.process.whole"),
            "short": ["outer.process.short.extract"],
            "one": ["outer.process.one"],
        }

    def test_in_a_mapped_group_the_fan_in_waits_for_the_branches_of_its_own_instance(self) -> None:
        made: list[tuple[FanOutGroup, FanInOperator]] = []

        @task_group
        def each(item: str) -> None:
            group = declare(partial={"item": item})
            made.append((group, FanInOperator(task_id="combine", fan_out=group)))

        each.expand(item=["a", "b"])

        ((group, fan_in),) = made
        assert ids(group)["process_0"] == steps_of("each.process.process_0")
        assert fan_in.upstream_task_ids == {f"each.process.process_{index}.load" for index in (0, 1)}

    def test_tasks_that_the_function_makes_elsewhere_are_not_the_branchs(self, dag: DAG) -> None:
        @task_group
        def branch(index: int) -> None:
            EmptyOperator(task_id=f"elsewhere_{index}", task_group=dag.task_group)
            extract()

        assert ids(declare(branch)) == {
            "process_0": ["process.process_0.extract"],
            "process_1": ["process.process_1.extract"],
        }


def diamond() -> None:
    middle = [EmptyOperator(task_id="c"), EmptyOperator(task_id="b")]
    EmptyOperator(task_id="z_first") >> middle >> EmptyOperator(task_id="a_last")


def group_inside() -> None:
    with TaskGroup("steps"):
        done = transform(extract())
    load(done)


def group_last() -> TaskGroup:
    done = extract()
    with TaskGroup("steps") as steps:
        load(done)
    return steps


def mapped_inside() -> None:
    load(transform.expand(item=extract()))


def mapped_group_inside() -> None:
    load(task_group(of_item).override(group_id="each").expand(item=[1, 2]))


def with_teardown() -> None:
    prepared, done = prepare(), extract()
    prepared >> done >> clear_up().as_teardown(setups=prepared)


def entered_teardown() -> None:
    with clear_up().as_teardown(setups=prepare()):
        load(extract())


def setup_made_outside() -> None:
    begun = setup(prepare.function)()
    begun >> extract() >> clear_up().as_teardown(setups=begun)


class TestOrder:
    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            pytest.param(diamond, ["z_first", "c", "b", "a_last"], id="a diamond"),
            pytest.param(group_inside, ["steps.extract", "steps.transform", "load"], id="a group inside"),
            pytest.param(group_last, ["extract", "steps.load"], id="a group at the end, returned"),
            pytest.param(mapped_inside, ["extract", "transform", "load"], id="a mapped task inside"),
            pytest.param(mapped_group_inside, ["each.extract", "load"], id="a mapped group inside"),
            pytest.param(with_teardown, ["prepare", "extract"], id="a teardown, which is left out"),
            pytest.param(entered_teardown, ["prepare", "extract", "load"], id="a teardown that is entered"),
            pytest.param(setup_made_outside, ["prepare", "extract"], id="a @setup in every branch"),
            pytest.param(lambda: extract(), ["extract"], id="the result returned"),  # noqa: PLW0108
            pytest.param(lambda: extract().operator, ["extract"], id="the task returned"),
            pytest.param(lambda: extract() and None, ["extract"], id="nothing returned"),
        ],
    )
    def test_tasks_come_in_the_order_in_which_they_run(self, function: Any, expected: list[str]) -> None:
        assert first_ids(function) == expected

    def test_the_group_is_wired_at_its_first_and_last_tasks(self) -> None:
        before = EmptyOperator(task_id="before")
        group = declare()
        before >> group
        fan_in = FanInOperator(task_id="combine", fan_out=group)

        assert before.downstream_task_ids == {"process.process_0.extract", "process.process_1.extract"}
        assert fan_in.upstream_task_ids == {"process.process_0.load", "process.process_1.load"}

    def test_a_fan_in_does_not_wait_for_a_teardown(self) -> None:
        fan_in = FanInOperator(task_id="combine", fan_out=declare(task_group(with_teardown)))

        assert fan_in.upstream_task_ids == {"process.process_0.extract", "process.process_1.extract"}


class TestWhatABranchIsGiven:
    @pytest.mark.parametrize(
        ("branch", "partial", "given"),
        [
            pytest.param(etl, {}, ["i", "a table"], id="its item"),
            pytest.param(etl, {"table": "t"}, ["i", "t"], id="partial"),
            pytest.param(etl, {"item": "x"}, ["x", "i"], id="its item where partial does not bind"),
            pytest.param(etl.partial(table="t"), {}, ["i", "t"], id=".partial()"),
            pytest.param(functools.partial(etl, "x"), {}, ["x", "i"], id="functools.partial by position"),
            pytest.param(functools.partial(etl.partial(table="t")), {}, ["i", "t"], id="both"),
            pytest.param(task_group(of_ti), {}, "i", id="a context name, which is like any other here"),
        ],
    )
    def test_the_function_gets(self, branch: Any, partial: dict[str, Any], given: Any) -> None:
        assert first_given(declare(branch, items=["i"], partial=partial)) == [given]

    def test_index_is_that_of_the_branch(self) -> None:
        assert first_given(declare(task_group(of_index), count=3)) == [0, 1, 2]

    def test_an_item_is_given_as_it_is(self) -> None:
        """Airflow's own call makes an argument of a mapped one, which has no truth value."""
        branch = task_group(lambda item: extract("yes" if item else "no"))

        assert first_given(declare(branch, items=[0, 1])) == ["no", "yes"]

    def test_a_value_of_run_time_comes_before_the_task_that_takes_it(self) -> None:
        group = declare(items=["a"], partial={"table": prepare()})

        assert group.dag.get_task("process.process_0.extract").upstream_task_ids == {"prepare"}

    def test_a_function_can_be_used_in_two_groups_and_counts_as_used(self) -> None:
        """Airflow warns of one with arguments bound that was "never mapped!" when that is thrown away."""
        branch = etl.partial(table="t")

        assert first_given(declare(branch, items=["a"])) == [["a", "t"]]
        assert first_given(declare(branch, group_id="other", items=["b"])) == [["b", "t"]]
        assert branch._task_group_created is True

    def test_its_name_is_in_the_documentation(self) -> None:
        assert "Each runs `etl`." in (getattr(declare(), "doc_md", "Each runs `etl`.") or "")


class TestHooks:
    @staticmethod
    def hooks(dag: DAG) -> set[tuple[str, int, bool]]:
        """Of each task its last step, its failure callbacks, and whether ours is its post_execute."""
        found = set()
        for operator in dag.tasks:
            made: Any = operator
            hook = made.partial_kwargs.get("post_execute") if made.is_mapped else made._post_execute_hook
            ours = [callback for callback in made.on_failure_callback if callback is recording.record_failure]
            found.add((made.task_id.rpartition(".")[2], len(ours), hook is hooks.AFTER))
        return found

    def test_every_task_of_a_branch_has_them_but_teardowns(self) -> None:
        @task_group
        def branch() -> None:
            with clear_up().as_teardown(setups=prepare()):
                load(transform.expand(item=[1, 2]))

        assert self.hooks(declare(branch).dag) == {
            ("prepare", 1, True),
            ("transform", 1, True),
            ("load", 1, True),
            ("clear_up", 0, False),
        }

    def test_a_fan_out_within_a_branch_has_them_once(self) -> None:
        @task_group
        def branch() -> Any:
            parts = FanOutGroup("parts", branch=task_group(mapped_inside), count=2)
            return FanInOperator(task_id="collect", fan_out=parts).output

        group = declare(branch)

        assert ids(group)["process_0"][-1] == "process.process_0.collect"
        assert FanInOperator(task_id="combine", fan_out=group).upstream_task_ids == {
            "process.process_0.collect",
            "process.process_1.collect",
        }
        assert self.hooks(group.dag) - {("combine", 0, False)} == {
            (step, 1, True) for step in ("extract", "transform", "load", "collect")
        }


def two_last() -> None:
    extract()
    transform("x")


def mapped_last() -> None:
    load.expand(item=extract())


def last_in_a_mapped_group() -> None:
    task_group(of_item).override(group_id="each").expand(item=[1, 2])


def setup_without_a_teardown() -> None:
    prepare().as_setup() >> extract()


def setup_with_a_teardown_elsewhere() -> None:
    prepared = prepare()
    with TaskGroup("elsewhere", parent_group=None, prefix_group_id=False) as elsewhere:
        cleared = clear_up.override(task_group=elsewhere.dag.task_group)()
    prepared >> extract() >> cleared.as_teardown(setups=prepared)


def setup_alone() -> None:
    prepare().as_setup()


def teardown_alone() -> None:
    clear_up().as_teardown()


def twice_the_same_id() -> None:
    EmptyOperator(task_id="same") >> EmptyOperator(task_id="same")


def first_returned() -> Any:
    done = extract()
    load(done)
    return done


def circle() -> None:
    first, second = EmptyOperator(task_id="first"), EmptyOperator(task_id="second")
    first >> second >> first


def unprefixed_group() -> None:
    with TaskGroup("steps", prefix_group_id=False):
        extract()


one_teardown = teardown(clear_up.function)


def one_teardown_in_each() -> None:
    prepared = prepare()
    prepared >> extract() >> one_teardown().as_teardown(setups=prepared)


NO_BRANCHES: list[tuple[Callable[..., Any], str]] = [
    (
        two_last,
        "two_last has 2 last tasks, '.*_0.extract', '.*_0.transform', but a branch has one value; let one",
    ),
    (lambda: None, "<lambda> has made no task for branch 'process_0'"),
    (mapped_last, "the last task of mapped_last, 'process.process_0.load', is mapped, .*collects them"),
    (last_in_a_mapped_group, "the last task of .*, 'process.process_0.each.extract', is mapped"),
    (
        setup_without_a_teardown,
        r"the setup 'process.process_0.prepare' has no teardown in its branch; .*as_teardown\(setups=…\)",
    ),
    (setup_with_a_teardown_elsewhere, "the setup 'process.process_0.prepare' has no teardown in its branch"),
    (setup_alone, "its last task 'process.process_0.prepare' is a setup"),
    (teardown_alone, "teardown_alone has no last task, only setups and teardowns"),
    (circle, "circle has no last task, .*or a circle of tasks"),
    (
        one_teardown_in_each,
        r"one_teardown_in_each calls one @teardown in several branches.*call it with \.as_teardown\(",
    ),
    (
        twice_the_same_id,
        "twice_the_same_id makes two of one id for branch 'process_0': .*'process.process_0.same'",
    ),
    (
        first_returned,
        r"first_returned returns XComArg\(.*extract.*\), but a branch's value is that of its last task '",
    ),
    (lambda: extract()["key"], r"<lambda> returns XComArg.*'key'"),
    (lambda: extract().map(str), r"<lambda> returns XComArg.*map"),
    (lambda: [extract()], r"<lambda> returns \[XComArg"),
    (
        unprefixed_group,
        "unprefixed_group makes 'extract', without the branch's name in the id; leave out prefix",
    ),
]


@pytest.mark.parametrize(("branch", "message"), NO_BRANCHES, ids=[message for _, message in NO_BRANCHES])
def test_a_function_that_makes_no_branch_is_refused(branch: Callable[..., Any], message: str) -> None:
    with pytest.raises(DeclarationValueError, match=f"^FanOutGroup 'process': branch: {message}"):
        declare(task_group(branch))


REFUSED = [
    wrong_value("branch: etl makes .*; leave out prefix", branch=etl.override(prefix_group_id=False)),
    wrong_value(r"items: .*'a\.b' can't have a '\.'", items={"a.b": 1}),
    wrong_value("items: .*has 201 characters", items={"n" * 201: 1}),
    wrong_value(r"branch: .*'a\.b' can't have a '\.'", branch={"c.d": lambda: 1, "a.b": etl}),
    wrong_type(
        r"branch: .*needs 'second'; bind it", branch=task_group(lambda first, second: extract()), items=["a"]
    ),
    wrong_type("branch: .* has no free parameter", branch=task_group(of_nothing), items=["a"]),
    wrong_type(r"partial: binds 'nobody', which etl\(item, table\) does not take", partial={"nobody": 1}),
    wrong_type(r"branch: of_ti\(ti\) needs 'ti'", branch=task_group(of_ti)),
    wrong_type(
        r"branch: of_item\(item\) needs 'item'",  # default_args fill parameters of tasks alone
        branch=task_group(of_item),
        default_args={"item": "x"},
    ),
]


@pytest.mark.parametrize(("declared", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused(declared: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^FanOutGroup 'process': {message}"):
        declare(**declared)


def heeding(decorator: Any) -> Any:
    return decorator(ignore_downstream_trigger_rules=False)


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        pytest.param(task.branch(extract.function), "_BranchPythonDecoratedOperator", id="branch"),
        pytest.param(
            heeding(task.short_circuit)(extract.function),
            "_ShortCircuitDecoratedOperator",
            id="short-circuit",
        ),
        pytest.param(lambda: LatestOnlyOperator(task_id="extract"), "LatestOnlyOperator", id="latest-only"),
    ],
)
def test_what_skips_the_tasks_after_it_may_stand_in_the_middle_and_not_last(last: Any, kind: str) -> None:
    middle = declare(task_group(lambda: last() >> load("x") and None), group_id="middle")

    assert [i.rpartition(".")[2] for i in ids(middle)["middle_0"]] == ["extract", "load"]
    message = (
        f"branch: 'process.process_0.extract' is a {kind}, which skips the tasks after it, so that the fan-in"
    )
    with pytest.raises(DeclarationValueError, match=message):
        declare(task_group(lambda: prepare() >> last() and None))


def check(*, mapped: bool = False, **given: Any) -> Any:
    decorated: Any = task.short_circuit(task_id="check", **given)(lambda item: item)
    return decorated.expand(item=[1]) if mapped else decorated(1)


def check_operator(*, mapped: bool = False, **given: Any) -> Any:
    arguments = {"task_id": "check", "python_callable": bool, **given}
    if mapped:
        return ShortCircuitOperator.partial(**arguments).expand(op_args=[[1]])
    return ShortCircuitOperator(**arguments)


def choose() -> Any:
    return task.branch(task_id="check")(lambda: "a")()


HEEDS = {"ignore_downstream_trigger_rules": False}
IGNORES = {"ignore_downstream_trigger_rules": True}
NO_EFFECT = "where Airflow runs them all the same; raise AirflowSkipException in a plain @task, or leave"


def skipping_first(make: Any, **given: Any) -> Any:
    return task_group(lambda: make(**given) >> extract() and None)


@pytest.mark.parametrize("make", [check, check_operator])
def test_a_short_circuit_may_skip_the_rest_of_its_branch_alone(make: Any) -> None:
    assert ids(declare(skipping_first(make, **HEEDS), group_id="g"))["g_0"] == [
        "g.g_0.check",
        "g.g_0.extract",
    ]

    for group_id, given in (("default", {}), ("told", IGNORES)):
        message = "branch: '.*.check' is a short-circuit that skips all tasks after it, .*=False"
        with pytest.raises(DeclarationValueError, match=message):
            declare(skipping_first(make, **given), group_id=group_id)


@pytest.mark.parametrize("given", [{}, HEEDS, IGNORES], ids=["default", "heeds rules", "ignores rules"])
@pytest.mark.parametrize("make", [check, check_operator])
def test_a_mapped_task_skips_nothing_and_is_refused_with_what_does(make: Any, given: Any) -> None:
    with pytest.raises(DeclarationValueError, match=f"'.*_0.check' skips tasks and is mapped, {NO_EFFECT}"):
        declare(skipping_first(make, mapped=True, **given))


def declare_around(branch: Any) -> None:
    @task_group
    def outer(word: str) -> None:
        declare(branch)

    outer.expand(word=["a"])


@pytest.mark.parametrize(
    "declare_mapped",
    [
        pytest.param(lambda branch: declare(branch, mapped=True), id="the branch's own"),
        pytest.param(declare_around, id="around the fan-out"),
    ],
)
@pytest.mark.parametrize(
    "branch",
    [
        *(skipping_first(make, **HEEDS) for make in (check, check_operator)),
        *(skipping_first(make) for make in (choose, lambda: LatestOnlyOperator(task_id="check"))),
    ],
)
def test_a_task_in_a_mapped_task_group_skips_nothing_before_airflow_3_4(
    monkeypatch: pytest.MonkeyPatch, branch: Any, declare_mapped: Any
) -> None:
    monkeypatch.setattr(skippers, "SKIPS_IN_MAPPED_GROUPS", True)
    declare_mapped(branch)

    monkeypatch.setattr(skippers, "SKIPS_IN_MAPPED_GROUPS", False)
    message = f"'.*check' skips tasks and is in the mapped task group '.*', {NO_EFFECT}"
    with DAG("earlier", schedule=None), pytest.raises(DeclarationValueError, match=message):
        declare_mapped(branch)


def test_a_mapped_branch_is_not_told_to_have_its_short_circuit_heed_rules_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(skippers, "SKIPS_IN_MAPPED_GROUPS", False)
    with pytest.raises(DeclarationValueError, match=NO_EFFECT):
        declare(skipping_first(check), mapped=True)


USES = {
    "an f-string": lambda item: f"echo {item}",
    "a format": lambda item: f"{item:>5}",
    "str()": str,
    "%": lambda item: "echo %s" % item,  # noqa: UP031
    "join": lambda item: ",".join(map(str, [item])),
    "if": lambda item: 1 if item else 2,
    "not": lambda item: not item,
    "==": lambda item: item == "1",
    "!=": lambda item: item != "1",
    "in a list": lambda item: item in ["0", "1"],
    "a key": lambda item: {"1": 2}[item],
    "<": lambda item: item < 1,
    ">=": lambda item: item >= 1,
    "+": lambda item: item + 1,
    "text +": lambda item: "a" + item,
    "*": lambda item: 2 * item,
    "-": lambda item: -item,
    "[0]": lambda item: item[0],
    "a slice": lambda item: item[1:],
    "['a']": lambda item: item["a"],
    "for": list,
    "in": lambda item: "a" in item,
    "len": len,
    "int": int,
    "range": range,
    ".a": lambda item: item.a,
    ".strip()": lambda item: item.strip(),
    "in a comprehension": lambda item: [letter for letter in "ab" if item == letter],
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(
    ("declared", "parameter"),
    [
        pytest.param(lambda: {"items": ["1", "2"], "mapped": True}, "item", id="literal items"),
        pytest.param(lambda: {"items": prepare()}, "item", id="items of run time"),
        pytest.param(lambda: {"count": prepare()}, "index", id="an index of run time"),
    ],
)
def test_an_item_of_a_mapped_branch_is_no_value_when_the_dag_is_parsed(
    use: Any, declared: Any, parameter: str
) -> None:
    functions: dict[str, Callable[..., Any]] = {
        "item": lambda item: extract(use(item)),
        "index": lambda index: extract(use(index)),
    }
    branch = task_group(group_id="mine")(functions[parameter])

    message = (
        f"'process': branch: <lambda> uses its parameter '{parameter}' as a value when the Dag is parsed, "
        "but it is known only when .* run: hand it to a task as it is.* leave mapped out"
    )
    with pytest.raises((DeclarationTypeError, AttributeError), match=message):
        declare(branch, **declared())


class PickyOperator(BaseOperator):
    """Looks at its arguments when it is made, as many of Airflow's do."""

    template_fields = ("item",)

    def __init__(self, *, item: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.item = item or "nothing"
        self.is_one = item == "1"
        self.text = str(item)


ARGUMENTS = {
    "a @task": extract,
    "in containers": lambda item: extract([{"a": (item,)}]),
    "op_kwargs": lambda item: PythonOperator(task_id="t", python_callable=dict, op_kwargs=item),
    "in op_kwargs": lambda item: PythonOperator(task_id="t", python_callable=dict, op_kwargs={"a": item}),
    "Bash": lambda item: BashOperator(task_id="t", bash_command="echo $ITEM", env={"ITEM": item}),
    "a command": lambda item: BashOperator(task_id="t", bash_command=item),
    "an operator that looks at it": lambda item: PickyOperator(task_id="t", item=item),
    "partial of a static group": lambda item: FanInOperator(
        task_id="t", fan_out=FanOutGroup("in", branch=extract.function, count=1, partial={"item": item})
    ),
}


@pytest.mark.parametrize("argument", ARGUMENTS.values(), ids=ARGUMENTS)
def test_an_item_of_a_mapped_branch_is_an_argument_of_tasks_and_shown_by_repr(
    dag: DAG, argument: Any
) -> None:
    shown: list[str] = []

    @task_group
    def branch(item: Any) -> None:
        shown.append(f"{item!r}")
        argument(item)

    declare(branch, items=["1", "2"], mapped=True)

    assert "MappedItem(" in shown[0]
    assert "process.each" in str(DagSerialization.to_dict(dag))


def test_an_item_is_resolved_in_its_instance(dag: DAG) -> None:
    declare(task_group(lambda item: extract({"a": item})), items=["x", "y"], mapped=True)
    each: Any = copy.deepcopy(dag.get_task("process.each.extract"))
    context: Any = {"ti": mock.Mock(map_index=1), "task": each, "dag": dag, "params": {}}
    each.render_template_fields(context)

    assert (each.op_args, each.op_kwargs) == (({"a": "y"},), {})


@pytest.mark.parametrize("error", [ValueError("no such file"), LookupError("no such key")], ids=repr)
def test_an_error_of_the_authors_own_says_which_branch_it_was(error: Exception) -> None:
    def branch(item: str) -> None:
        raise error

    with pytest.raises(type(error), match="no such") as raised:
        declare(task_group(branch), items={"first": 1})

    assert raised.value is error
    assert raised.value.__notes__ == ["FanOutGroup 'process': branch: raised by branch for branch 'first'"]


@pytest.mark.usefixtures("no_dag")
@pytest.mark.parametrize("mapped", [False, True], ids=["static", "mapped"])
def test_the_tasks_join_the_dag_that_the_group_is_given(mapped: bool) -> None:
    dag = DAG("given", schedule=None)
    name = "each" if mapped else "process_0"

    with DAG("around", schedule=None) as around:
        declare(dag=dag, parent_group=None, items=["a"], mapped=mapped or None)

    assert (sorted(dag.task_ids), around.task_ids) == (sorted(steps_of(f"process.{name}")), [])
