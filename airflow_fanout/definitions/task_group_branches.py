"""A ``@task_group`` function as a branch of several tasks."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import attrs
from airflow.sdk import BaseOperator, TaskGroup, XComArg
from airflow.sdk.definitions.decorators.task_group import MappedArgument  # type: ignore[attr-defined]
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import DuplicateTaskIdFound

from airflow_fanout.definitions.function_branches import CallingBranch
from airflow_fanout.definitions.skippers import refuse_inner_skipper, refuse_skipper
from airflow_fanout.definitions.stored_arguments import (
    StorableItems,
    holds_run_time_values,
    storable_arguments,
)
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import NO_ITEM, FunctionArguments, unwrap_partial
from airflow_fanout.operators.hooks import add_hooks
from airflow_fanout.rules.names import EACH
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.tasks import nearest_mapped_group

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.definitions.expansion import Expansion

    AnyOperator = BaseOperator | MappedOperator

T = TypeVar("T")


@attrs.define(kw_only=True, eq=False, repr=False)
class MappedItem(MappedArgument):  # noqa: PLW1641 - it refuses to be hashed, below
    """
    The item of a mapped branch, as its function is given it when the Dag is parsed: an argument for tasks.

    Airflow's own is always true, equal to nothing, and some text in an f-string (airflow#40604). With this
    one the function gets an error that says what to do; but not Airflow, which tests and compares arguments
    when it makes a task, and stores a text of them.
    """

    owner: str
    argument: str
    title: str

    def __getattr__(self, name: str) -> NoReturn:
        """Have no other attributes, for ``hasattr`` and ``copy`` too."""
        problem = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(problem if name.startswith("_") else f"{problem}: {self._refusal()}")

    def __bool__(self) -> bool:
        """Be true."""
        return self._for_airflow(True)

    def __eq__(self, other: object) -> bool:
        """Be equal to nothing else."""
        return self._for_airflow(self is other)

    def __str__(self) -> str:
        """Return the text that Airflow stores."""
        return self._for_airflow(repr(self))

    def __format__(self, spec: str) -> str:
        """Return that text."""
        return self._for_airflow(format(repr(self), spec))

    def _for_airflow(self, value: T) -> T:
        """Raise if the branch's function asks, and no code of Airflow's, or ours, that it has called."""
        frame: Any = inspect.currentframe().f_back.f_back  # type: ignore[union-attr]
        while frame is not None and frame.f_code is not _call_with_items.__code__:
            if frame.f_globals["__name__"].partition(".")[0] in {"airflow", "airflow_fanout"}:
                return value
            frame = frame.f_back
        if frame is not None:
            raise self._refusal()
        return value

    def _refusal(self) -> DeclarationTypeError:
        fault = f"{self.title} uses its parameter {self._key!r} as a value when the Dag is parsed"
        way_out = (
            "it is known only when the tasks of a mapped branch run: hand it to a task as it is, alone or in "
            "a list or dict, and compare, format or take it apart there (BashOperator: env={'ITEM': item}, "
            "and $ITEM in the command); or, if all items are known at parse time, leave mapped out"
        )
        return DeclarationTypeError(self.owner, self.argument, f"{fault}, but {way_out}")


def _refuse_use(item: MappedItem, *_: object) -> NoReturn:
    raise item._refusal()  # noqa: SLF001


BINARY = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or"
UNARY = "neg pos abs invert int float complex index round hash len getitem lt le gt ge"
for _name in (*UNARY.split(), *(f"{side}{name}" for name in BINARY.split() for side in ("", "r"))):
    setattr(MappedItem, f"__{_name}__", _refuse_use)


def _call_with_items(arguments: FunctionArguments, /, **given: Any) -> Any:
    """Call the function of a mapped branch."""
    declared = {"owner": arguments.owner, "argument": arguments.argument, "title": arguments.title}
    items = {
        name: MappedItem(input=value._input, key=value._key, **declared)  # noqa: SLF001
        for name, value in given.items()
        if isinstance(value, MappedArgument)
    }
    return arguments.function(**{**given, **items})


class TaskGroupBranch(CallingBranch):
    """
    A task group as a branch: several tasks, the last of which gives the branch's value.

    :param factory: The function under its decorator.
    """

    is_group: ClassVar[bool] = True
    kind: ClassVar[str] = "a @task_group"

    def __init__(self, arguments: FunctionArguments, factory: Any) -> None:
        super().__init__(arguments)
        self.factory = factory

    def check(
        self, partial: Mapping[str, Any], items: Collection[Any] | None, *, default_args: Collection[str]
    ) -> None:
        """Check that bound arguments and item fit; ``default_args`` fill the parameters of tasks alone."""
        self.check_arguments(partial, items, ())

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> Sequence[AnyOperator]:
        """Make the task group of one branch."""
        positional, named = self.arguments.bind(partial, item)
        try:
            with task_group.dag:  # which the tasks of the function join
                returned = self.factory.override(group_id=name, parent_group=task_group)(*positional, **named)
        except DuplicateTaskIdFound as error:
            self._refuse(f"{self.title} makes two of one id for branch {name!r}: {error}", cause=error)
        except Exception as error:
            if "Trigger rule not configurable for teardown tasks" not in str(error):
                place = f"{self.arguments.owner}: {self.arguments.argument}"
                error.add_note(f"{place}: raised by {self.title} for branch {name!r}")
                raise
            fault = f"{self.title} calls one @teardown in several branches, which Airflow can do only once"
            way_out = "make it a @task, and call it with .as_teardown(setups=…)"
            self._refuse(f"{fault}; {way_out}", cause=error)
        return self._tasks(f"branch {name!r}", _child(task_group, name), returned)

    def expand(
        self, partial: Mapping[str, Any], expansion: Expansion, *, task_group: TaskGroup
    ) -> Sequence[AnyOperator]:
        """Make the mapped task group that all branches are instances of."""
        # No template fields: the function sees its arguments when the Dag is parsed.
        bound = storable_arguments({**self.bound, **partial}, template_fields=())
        if expansion.gives == "nothing":
            # Airflow looks for a default among the arguments of each instance, and there are none.
            defaults = {name: parameter.default for name, parameter in self.arguments.parameters.items()}
            bound = {**defaults, **bound}
            method, expanded = "expand_kwargs", {"kwargs": expansion.over(lambda _: {})}
        elif expansion.gives == "item" and self.arguments.spreads_items:
            method, expanded = "expand_kwargs", {"kwargs": self._items(expansion, self._shape(bound))}
        else:
            parameter = self.arguments.item_name(bound) if expansion.gives == "item" else "index"
            method, expanded = "expand", {parameter: self._items(expansion, lambda item: item)}
        function = functools.partial(_call_with_items, self.arguments)
        functools.update_wrapper(function, self.arguments.function)
        factory = attrs.evolve(self.factory, function=function)
        factory = factory.override(group_id=EACH, parent_group=task_group).partial(**bound)
        try:
            with task_group.dag:
                returned = getattr(factory, method)(**expanded)
        except NotImplementedError as error:
            fault = "maps a task itself, which Airflow can't do within a mapped task group"
            self._refuse(f"{self.title} {fault}; give a count or items known at parse time", cause=error)
        tasks = self._tasks("its branches", _child(task_group, EACH), returned)
        for task in tasks:
            for name, value in expansion.settings({"map_index_template": task.map_index_template}).items():
                setattr(task, name, value)
        return tasks

    def _shape(self, bound: Collection[str]) -> Callable[[Any], dict[str, Any]]:
        """Make what spreads an item: Airflow looks for each parameter that is not bound among its values."""
        defaults = {
            name: parameter.default
            for name, parameter in self.arguments.parameters.items()
            if name not in bound and parameter.default is not inspect.Parameter.empty
        }
        return lambda item: {**defaults, **self.arguments.spread(item, bound)}

    def _items(self, expansion: Expansion, shape: Callable[[Any], Any]) -> Any:
        if expansion.output is not None:
            return expansion.over(shape)
        for _ in XComArg.iter_xcom_references(expansion.items):
            pass  # a group among them says that a fan-in collects it
        for index, item in enumerate(expansion.items):
            if holds_run_time_values(item):
                fault = "known only at run time, and Airflow doesn't resolve items of a mapped task group"
                problem = f"item {index} is {fault}; leave mapped out, or let a task return all items"
                raise DeclarationValueError(self.arguments.owner, "items", problem)
        return StorableItems(map(shape, expansion.items))

    def _tasks(self, what: str, group: TaskGroup, returned: object) -> Sequence[AnyOperator]:
        """Check the tasks that the function has made; return them in order, without teardowns."""
        tasks: list[Any] = list(group.iter_tasks())
        if not tasks:
            self._refuse(f"{self.title} has made no task for {what}; call tasks in it")
        if astray := [task.task_id for task in tasks if not task.task_id.startswith(f"{group.group_id}.")]:
            fault = f"{self.title} makes {listing(astray)}, without the branch's name in the id"
            way_out = "leave out prefix_group_id=False, so that each branch has tasks of its own"
            self._refuse(f"{fault}; {way_out}")
        last = self._last(group)
        self._check_returned(returned, last)
        ids = {task.task_id for task in tasks}
        for task in tasks:
            refuse_inner_skipper(self.arguments.owner, self.arguments.argument, task)
            if task.is_setup and not any(i.is_teardown and i.task_id in ids for i in task.downstream_list):
                self._refuse(
                    f"the setup {task.task_id!r} has no teardown in its branch; add one, "
                    "clear_up().as_teardown(setups=…), or make it a plain @task"
                )
        own_tasks = [task for task in tasks if not task.is_teardown]
        for task in own_tasks:
            add_hooks(task)
        return _in_order(own_tasks, last)

    def _last(self, group: TaskGroup) -> AnyOperator:
        leaves: dict[str, AnyOperator] = {leaf.task_id: leaf for leaf in group.get_leaves()}
        if not leaves:
            fault = f"{self.title} has no last task, only setups and teardowns or a circle of tasks"
            self._refuse(f"{fault}; let one task do the work that gives the branch its value")
        if len(leaves) != 1:
            fault = f"{self.title} has {len(leaves)} last tasks, {listing(leaves)}"
            self._refuse(f"{fault}, but a branch has one value; let one task come after the others")
        (last,) = leaves.values()
        if last.is_setup:
            self._refuse(f"its last task {last.task_id!r} is a setup; let a task do the work after it")
        if last.is_mapped or nearest_mapped_group(last.task_group) != nearest_mapped_group(group):
            fault = f"the last task of {self.title}, {last.task_id!r}, is mapped, but a branch has one value"
            self._refuse(f"{fault}; let one task come after it that collects them")
        refuse_skipper(self.arguments.owner, self.arguments.argument, repr(last.task_id), type(last))
        return last

    def _check_returned(self, returned: object, last: AnyOperator) -> None:
        """Refuse a returned value that would be ignored: the branch's value is that of its last task."""
        if returned is None or returned is last or isinstance(returned, TaskGroup):
            return
        is_output = isinstance(returned, PlainXComArg) and returned.operator is last
        if not is_output or getattr(returned, "key", None) != RETURN_VALUE:
            value = f"but a branch's value is that of its last task {last.task_id!r}"
            self._refuse(f"{self.title} returns {returned!r}, {value}; return that task's result, or nothing")

    def _refuse(self, problem: str, *, cause: Exception | None = None) -> NoReturn:
        raise DeclarationValueError(self.arguments.owner, self.arguments.argument, problem) from cause


def task_group_branch(
    owner: str, argument: str, branch: object, item_for: str | None = None, *, spreads_items: bool = False
) -> TaskGroupBranch:
    """Make a branch of a ``@task_group`` function, or of ``functools.partial`` of one."""
    target: Any
    target, bound = unwrap_partial(owner, argument, branch)
    bound = {**target.partial_kwargs, **bound}
    arguments = FunctionArguments(
        owner=owner,
        argument=argument,
        function=target.function,
        bound=bound,
        given_by_airflow=frozenset(),
        item_for=item_for,
        spreads_items=spreads_items,
    )
    target._task_group_created = True  # noqa: SLF001 - its arguments are bound here: no "was never mapped!"
    return TaskGroupBranch(arguments, type(target)(target.function, target.tg_kwargs))


def _child(group: TaskGroup, name: str) -> Any:
    return group.children[str(group.child_id(name))]  # type: ignore[no-untyped-call]


def _in_order(tasks: Sequence[AnyOperator], last: AnyOperator) -> list[AnyOperator]:
    from graphlib import TopologicalSorter  # only these branches need it

    by_id = {task.task_id: task for task in tasks}
    graph = {task_id: sorted(task.upstream_task_ids & by_id.keys()) for task_id, task in by_id.items()}
    ordered = [by_id[task_id] for task_id in TopologicalSorter(graph).static_order()]
    return [*(task for task in ordered if task is not last), last]
