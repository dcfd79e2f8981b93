"""A ``@task_group`` function as a branch of several tasks; runs when the Dag is parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator, TaskGroup, XComArg
from airflow.sdk.exceptions import DuplicateTaskIdFound

from airflow_fanout.definitions.skippers import refuse_far_skipper, refuse_skipper
from airflow_fanout.definitions.stored_arguments import (
    LiteralItems,
    holds_run_time_values,
    storable_arguments,
)
from airflow_fanout.exceptions import DeclarationValueError
from airflow_fanout.execution_time.arguments import NO_ITEM, CallingBranch, FunctionArguments
from airflow_fanout.operators.hooks import add_hooks
from airflow_fanout.rules.names import EACH
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.tasks import nearest_mapped_group

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.definitions.expansion import Expansion

    AnyOperator = BaseOperator | MappedOperator

__all__ = ["TaskGroupBranch", "is_task_group_function", "task_group_branch"]


def is_task_group_function(value: object) -> bool:
    """Whether a value is a function under the ``@task_group`` decorator."""
    return getattr(value, "tg_class", None) is TaskGroup


@dataclass(frozen=True, kw_only=True)
class TaskGroupBranch(CallingBranch):
    """
    A task group as a branch: several tasks, the last of which gives the branch's value.

    :param arguments: The arguments of the function, which Airflow calls when the Dag is parsed.
    :param factory: The function under its decorator.
    """

    is_group: ClassVar[bool] = True

    factory: Any

    def check(
        self,
        partial: Mapping[str, Any],
        items: Collection[Any] | None,
        *,
        default_args: Collection[str],  # they fill the parameters of tasks alone
    ) -> None:
        """Check that what every branch is given fits the function."""
        self.arguments.check(partial, takes_item=items is not None, default_args=())

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> Sequence[AnyOperator]:
        """Make the task group of one branch."""
        positional, named = self.arguments.bind(partial, item)
        try:
            with task_group.dag:  # which the tasks join that the function makes
                returned = self.factory.override(group_id=name, parent_group=task_group)(*positional, **named)
        except DuplicateTaskIdFound as twice:
            self._refuse(f"{self.title} makes two of one id for branch {name!r}: {twice}", cause=twice)
        except Exception as refused:
            if "Trigger rule not configurable for teardown tasks" not in str(refused):
                refused.add_note(f"{self._place}: raised by {self.title} for branch {name!r}")
                raise
            self._refuse(
                f"{self.title} calls one @teardown in several branches, which Airflow can do only once; make "
                "it a @task, and call it with .as_teardown(setups=…)",
                cause=refused,
            )
        return self._tasks(f"branch {name!r}", _child(task_group, name), returned)

    def expand(
        self, partial: Mapping[str, Any], expansion: Expansion, *, task_group: TaskGroup
    ) -> Sequence[AnyOperator]:
        """Make the mapped task group that all branches are instances of."""
        # The function may look into what it is given, so only Dag params are replaced.
        bound = storable_arguments({**self.bound, **partial}, template_fields=())
        factory = self.factory.override(group_id=EACH, parent_group=task_group)
        if expansion.gives == "nothing":
            # What is not bound would be taken from each instance's arguments, of which there are none.
            defaults = {name: each.default for name, each in self.arguments.parameters.items()}
            make = factory.partial(**{**defaults, **bound}).expand_kwargs
            expanded: dict[str, Any] = {"kwargs": expansion.over(lambda _: {})}
        else:
            parameter = "index"
            if expansion.gives == "item":
                parameter = self.arguments.item_name(bound, because="a mapped task group")
            make = factory.partial(**bound).expand
            expanded = {parameter: self._items(expansion)}
        try:
            with task_group.dag:
                returned = make(**expanded)
        except NotImplementedError as refused:
            self._refuse(
                f"{self.title} maps a task itself, which Airflow can't do within a mapped task group; "
                "give a count or items that are known when the Dag is parsed",
                cause=refused,
            )
        tasks = self._tasks("its branches", _child(task_group, EACH), returned)
        for each in tasks:
            given = {"map_index_template": each.map_index_template}
            for name, value in expansion.settings(given, depth=_depth(each, task_group)).items():
                setattr(each, name, value)
        return tasks

    def _items(self, expansion: Expansion) -> Any:
        if expansion.output is not None:
            return expansion.over(lambda item: item)
        items = expansion.items or ()
        for _ in XComArg.iter_xcom_references(list(items)):
            pass  # a group among them says that a fan-in collects it
        for place, item in enumerate(items):
            if holds_run_time_values(item):
                problem = (
                    f"item {place} is known only at run time, and Airflow doesn't resolve literal items of a "
                    "mapped task group; leave mapped out, or let a task return all items"
                )
                raise DeclarationValueError(self.arguments.owner, "items", problem)
        return LiteralItems(items)

    def _tasks(self, what: str, group: Any, returned: object) -> Sequence[AnyOperator]:
        tasks = list(group.iter_tasks())
        last = self._last(what, group, tasks)
        self._check_returned(returned, last)
        for each in tasks:
            refuse_far_skipper(self.arguments.owner, self.arguments.argument, each)
        self._check_setups(tasks)
        own = [each for each in tasks if not each.is_teardown]
        for each in own:
            add_hooks(each)
        return _in_order(own, last)

    def _last(self, what: str, group: TaskGroup, tasks: Sequence[AnyOperator]) -> AnyOperator:
        if not tasks:
            self._refuse(f"{self.title} has made no task for {what}; call its tasks in it")
        astray = [each.task_id for each in tasks if not each.task_id.startswith(f"{group.group_id}.")]
        if astray:
            self._refuse(
                f"{self.title} makes {listing(astray)}, without the branch's name in the id; "
                "leave out prefix_group_id=False, so that each branch has tasks of its own"
            )
        leaves = list({leaf.task_id: leaf for leaf in group.get_leaves()}.values())
        if not leaves:
            self._refuse(
                f"{self.title} has no last task, only setups and teardowns or a circle of tasks; "
                "let one task do the work that gives the branch its value"
            )
        if len(leaves) != 1:
            self._refuse(
                f"{self.title} has {len(leaves)} last tasks, {listing(leaf.task_id for leaf in leaves)}, and "
                "a branch has one value: let one task come after the others"
            )
        (last,) = leaves
        if last.is_setup:
            self._refuse(f"its last task {last.task_id!r} is a setup, which is no work of its own")
        if last.is_mapped or nearest_mapped_group(last.task_group) != nearest_mapped_group(group):
            self._refuse(
                f"the last task of {self.title}, {last.task_id!r}, is mapped, and a branch has one value: "
                "let one task come after it that collects them"
            )
        operator_class = type(last)
        refuse_skipper(self.arguments.owner, self.arguments.argument, repr(last.task_id), operator_class)
        return last

    def _check_returned(self, returned: object, last: AnyOperator) -> None:
        """Refuse a returned value that would be ignored: the branch's value is that of its last task."""
        if returned is None or isinstance(returned, TaskGroup) or returned is last:
            return
        own = getattr(returned, "operator", None) is last and getattr(returned, "key", None) == RETURN_VALUE
        if isinstance(returned, XComArg) and own:
            return
        self._refuse(
            f"{self.title} returns {returned!r}, but a branch's value is what its last task {last.task_id!r} "
            "returns: return that task's result, or nothing"
        )

    def _check_setups(self, tasks: Sequence[AnyOperator]) -> None:
        ids = {each.task_id for each in tasks}
        for each in tasks:
            if each.is_setup and not any(
                after.is_teardown and after.task_id in ids for after in each.downstream_list
            ):
                self._refuse(
                    f"the setup {each.task_id!r} has no teardown in its branch: add one, "
                    "clear_up().as_teardown(setups=…), or make it a plain @task"
                )

    @property
    def _place(self) -> str:
        return f"{self.arguments.owner}: {self.arguments.argument}"

    def _refuse(self, problem: str, *, cause: Exception | None = None) -> NoReturn:
        raise DeclarationValueError(self.arguments.owner, self.arguments.argument, problem) from cause


def task_group_branch(owner: str, argument: str, target: Any, bound: Mapping[str, Any]) -> TaskGroupBranch:
    """
    Make a branch of a ``@task_group`` function.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param target: The function under its decorator.
    :param bound: Arguments that ``functools.partial`` binds.
    """
    arguments = FunctionArguments(
        owner=owner,
        argument=argument,
        function=target.function,
        bound={**target.partial_kwargs, **bound},
        given_by_airflow=frozenset(),
    )
    target._task_group_created = True  # noqa: SLF001 - its arguments are bound here: no "was never mapped!"
    return TaskGroupBranch(arguments=arguments, factory=type(target)(target.function, target.tg_kwargs))


def _child(group: TaskGroup, name: str) -> Any:
    return group.children[str(group.child_id(name))]  # type: ignore[no-untyped-call]


def _depth(task: AnyOperator, outermost: TaskGroup) -> int:
    """Count the groups between a task and one that it stands in."""
    depth = 0
    group: Any = task.task_group
    while group.group_id != outermost.group_id:  # tasks hold proxies of their groups
        group, depth = group.parent_group, depth + 1
    return depth


def _in_order(tasks: Sequence[AnyOperator], last: AnyOperator) -> list[AnyOperator]:
    from graphlib import TopologicalSorter  # only these branches need it

    by_id = {each.task_id: each for each in tasks}
    graph = {task_id: sorted(each.upstream_task_ids & by_id.keys()) for task_id, each in by_id.items()}
    ordered = [by_id[task_id] for task_id in TopologicalSorter(graph).static_order()]
    return [*(each for each in ordered if each is not last), last]
