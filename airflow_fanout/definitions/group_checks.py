"""Checks of a group's arguments; ``owner`` is the group's title in the errors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import wraps
from inspect import Parameter, iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from airflow.sdk import BaseOperator, Param, XComArg
from airflow.sdk.definitions.param import DagParam

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import (
    FunctionArguments,
    is_function,
    is_run_time,
    is_task_function,
    undecorated,
)
from airflow_fanout.operators.fan_in_checks import check_items_at_once, check_number
from airflow_fanout.rules.pacing import MOST_PER_SECOND, most_tasks, seconds_in
from airflow_fanout.rules.records import MOST_SECONDS
from airflow_fanout.rules.wording import close_to, counted, listing, typed
from airflow_fanout.serialization.declaration import ItemExecutor, ResultsFormat
from airflow_fanout.serialization.tasks import nearest_mapped_group
from airflow_fanout.storage.stored_items import StoredItems

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.serialization.declaration import Mode

    AnyOperator = BaseOperator | MappedOperator

T = TypeVar("T")


def refuse_unknown_arguments(cls: type[T]) -> type[T]:
    """Have a class of groups say what to write in place of an argument that it does not take."""
    init: Any = cls.__init__
    known = signature(init).parameters

    @wraps(init)
    def checked_init(self: T, *positional: Any, **arguments: Any) -> None:
        owner = f"FanOutGroup {arguments.get('group_id', *positional[:1])!r}"
        if len(positional) > 1:
            found = f"is the one argument given by position, found {typed(positional[1])} after it"
            problem = f"{found}; write branch=…, count=…, and all others by name"
            raise DeclarationTypeError(owner, "group_id", problem)
        if unknown := next((name for name in arguments if name not in known), None):
            way_out = _argument_way_out(unknown, arguments.get("branch"), known.keys() - {"self"})
            problem = f"got an unexpected keyword argument {unknown!r}; {way_out}"
            raise DeclarationTypeError(owner, unknown, problem)
        init(self, *positional, **arguments)

    by_position, others = list(known.values())[:2], list(known.values())[2:]
    parameters = [*by_position, *(each.replace(kind=Parameter.KEYWORD_ONLY) for each in others)]
    checked_init.__signature__ = signature(init).replace(parameters=parameters)  # type: ignore[attr-defined]
    cls.__init__ = checked_init  # type: ignore[assignment, method-assign]
    return cls


def _argument_way_out(name: str, branch: Any, known: Collection[str]) -> str:
    function = undecorated(branch)
    if is_function(function) and name in signature(function).parameters:
        return f"it is the branch's: give it as items=, one for each branch, or in partial={{{name!r}: …}}"
    if name != "task_id" and name in signature(BaseOperator.__init__).parameters:
        return f"settings of the branches' tasks go into default_args={{{name!r}: …}}"
    return close_to(name, known)


def check_how_many(owner: str, *, branch: object, count: object, items: object) -> None:
    """Check that the number of branches is said once."""
    sources = {"count": count, "items": items, "a mapping as branch": isinstance(branch, Mapping) or None}
    names = [name for name, source in sources.items() if source is not None]
    if len(names) != 1:
        problem = f"expected count=, items= or a mapping as branch, found {' and '.join(names) or 'none'}"
        raise DeclarationValueError(owner, names[0] if names else "count", problem)


def check_count(owner: str, count: object) -> None:
    """Check that ``count`` is a number of branches, or is one at run time."""
    if isinstance(count, Param):
        problem = 'expected a number or dag.param("name"), found a Param; give it to the Dag, params={…}'
        raise DeclarationTypeError(owner, "count", problem)
    if count is None or isinstance(count, XComArg | DagParam):
        return
    if isinstance(count, bool) or not isinstance(count, int):
        way_out = _call_way_out(count)
        if isinstance(count, str) and "{{" in count:
            way_out = '; a number of run time is a Dag param, dag.param("name"), or the output of a task'
        problem = f"expected a whole number of branches, found {typed(count)}{way_out}"
        raise DeclarationTypeError(owner, "count", problem)
    if count < 0:
        raise DeclarationValueError(owner, "count", f"expected 0 or more branches, found {count}")


def check_items(owner: str, items: object, mode: Mode) -> None:
    """Check that ``items`` is a list or a mapping, or is one at run time."""
    if isinstance(items, StoredItems):
        if mode != "batched":
            fault = f"found {items.owner}, whose items are read by the tasks that run them, some at a time"
            raise DeclarationValueError(owner, "items", f"{fault}; give items_per_task= too")
        return
    if isinstance(items, type) and issubclass(items, StoredItems):
        problem = f"found the class {items.__name__}; make one of it: {items.__name__}(…)"
        raise DeclarationTypeError(owner, "items", problem)
    if isinstance(items, XComArg):
        keys = sorted({key for _, key in items.iter_references() if key != "return_value"})
        if keys and mode == "mapped":
            found = f"found the XCom {keys[0]!r} of a task, but Airflow maps over what a task returns"
            problem = f"{found}; let a task return it, or give items_per_task="
            raise DeclarationValueError(owner, "items", problem)
        for task, _ in items.iter_references() if mode == "mapped" else ():
            if not task.is_mapped and (group_id := nearest_mapped_group(task.task_group)) is not None:
                found = (
                    f"found the output of {task.task_id!r}, which is in the mapped task group {group_id!r}"
                )
                fault = f"{found}: Airflow can't map over what its instances return"
                problem = f"{fault}; let a task after them return it as one list, or give items_per_task="
                raise DeclarationValueError(owner, "items", problem)
    elif items is not None:
        check_sequence(owner, "items", items)


def check_sequence(owner: str, argument: str, items: object) -> None:
    """Check that an argument that is no output of a task is a list, or a mapping by name."""
    if isinstance(items, DagParam | Param):
        found = f"expected a list, a mapping or the output of a task, found {typed(items)}"
        problem = f"{found}; let a task return the param's value, and give its output"
        raise DeclarationTypeError(owner, argument, problem)
    if isinstance(items, str | bytes | bytearray) or not isinstance(items, Sequence | Mapping):
        way_out = _call_way_out(items) or "; use […] or list(…)"
        if isinstance(items, set | frozenset):
            way_out = ", which has no order; use sorted(…)"
        problem = f"expected a list or a mapping by name, found {typed(items)}{way_out}"
        raise DeclarationTypeError(owner, argument, problem)


def _call_way_out(value: Any) -> str:
    """What to write for a function, or a task, in place of its result; '' for other values."""
    if is_task_function(value) or is_function(value):
        return f", which was not called; call it: {undecorated(value).__name__}()"
    return "; give its output: <the task>.output" if isinstance(value, BaseOperator) else ""


def check_partial(owner: str, arguments: object) -> None:
    """Check that ``partial`` is a dict of arguments by name."""
    if arguments is not None and not isinstance(arguments, Mapping):
        problem = f"expected a dict of arguments, found {typed(arguments)}"
        raise DeclarationTypeError(owner, "partial", problem)
    if wrong_keys := [name for name in arguments or () if not isinstance(name, str)]:
        problem = f"expected parameter names as keys, found {typed(wrong_keys[0])}"
        raise DeclarationTypeError(owner, "partial", problem)


def check_item_concurrency(owner: str, item_concurrency: object, items_per_task: object) -> None:
    """Check that a task has as many items as are to run at once."""
    if item_concurrency is not None and items_per_task is None:
        problem = "is for the items of one task; give items_per_task too"
        raise DeclarationValueError(owner, "item_concurrency", problem)
    check_items_at_once(owner, item_concurrency, items_per_task)


def check_item_executor(owner: str, item_executor: object, items_per_task: object) -> None:
    """Check that ``item_executor`` is one, and that there are items for it."""
    if item_executor is None:
        return
    expected = 'expected "thread" or "process", found'
    if not isinstance(item_executor, str):
        raise DeclarationTypeError(owner, "item_executor", f"{expected} {typed(item_executor)}")
    if item_executor not in get_args(ItemExecutor):
        raise DeclarationValueError(owner, "item_executor", f"{expected} {item_executor!r}")
    if items_per_task is None:
        problem = "is for the items of one task; give items_per_task too"
        raise DeclarationValueError(owner, "item_executor", problem)


def check_processes(owner: str, item_executor: ItemExecutor | None, title: str, function: object) -> None:
    """Check that what items call can run in a process of their own."""
    if item_executor == "process" and iscoroutinefunction(function):
        found = f"found 'process', but {title} is async def, so its items run on an event loop"
        problem = f"{found}; leave item_executor out, or make it a plain function"
        raise DeclarationValueError(owner, "item_executor", problem)


def check_combination(owner: str, combine: object, combine_by: object, items_per_task: object) -> None:
    """Check that items of one task can be folded with ``combine``, and by what ``combine_by`` returns."""
    if combine is None and combine_by is not None:
        problem = "gives the key under which values are combined; give combine= too"
        raise DeclarationValueError(owner, "combine_by", problem)
    if combine is None:
        return
    if items_per_task is None:
        problem = "folds the values of the items of one task; give items_per_task too"
        raise DeclarationValueError(owner, "combine", problem)
    _check_folding_function(owner, "combine", combine, takes=["a value", "the next one"])
    if combine_by is not None:
        _check_folding_function(owner, "combine_by", combine_by, takes=["a value"])


def _check_folding_function(owner: str, argument: str, function: object, *, takes: Sequence[str]) -> None:
    expected = f"expected a plain function of {counted(len(takes), 'value', 'values')}"
    if is_task_function(function):
        found = f"found a @task, {undecorated(function).__name__}"
        raise DeclarationTypeError(owner, argument, f"{expected}, {found}; give the function without @task")
    if not callable(function):
        raise DeclarationTypeError(owner, argument, f"{expected}, found {typed(function)}")
    arguments = FunctionArguments(owner=owner, argument=argument, function=function, bound={})
    if iscoroutinefunction(function):
        problem = f"{expected}, found the async def {arguments.title}; write def"
        raise DeclarationTypeError(owner, argument, problem)
    try:
        parameters = signature(function)
    except ValueError:  # of some built-in functions, such as max
        return
    try:
        parameters.bind(*takes)
    except TypeError:
        way_out = f"let it take {' and '.join(takes)} by position, and need nothing else"
        problem = f"{expected}, found {arguments.signature}; {way_out}"
        raise DeclarationTypeError(owner, argument, problem) from None


def check_reuse(owner: str, reuse: object, items_per_task: object, *, combine: object) -> None:
    """Check that values of earlier runs can stand beside those of this one."""
    if reuse is None:
        return
    if type(reuse).__name__ != "Reuse":
        problem = f"expected Reuse(path, version=…) of airflow_fanout.storage, found {typed(reuse)}"
        raise DeclarationTypeError(owner, "reuse", problem)
    if items_per_task is None:
        problem = "is for the items of one task; give items_per_task too"
        raise DeclarationValueError(owner, "reuse", problem)
    if combine is not None:
        problem = "needs the value of each item, but combine= keeps none; leave one of them out"
        raise DeclarationValueError(owner, "reuse", problem)


def check_reuse_of_dag(owner: str, reuse: object, *, fail_fast: bool) -> None:
    """Check that the fan-in runs also if nothing else has to."""
    if reuse is not None and fail_fast:
        found = "in a fail_fast Dag the fan-in would be skipped whenever all items are reused"
        raise DeclarationValueError(owner, "reuse", f"{found}; leave fail_fast out, or reuse")


def check_is_repeatable(owner: str, arguments: FunctionArguments) -> None:
    """Check that a function takes nothing from Airflow's context, which an item's fingerprint can't hold."""
    names = (arguments.given_by_airflow & arguments.parameters.keys()) - arguments.bound.keys()
    if names or arguments.takes_any:
        given = listing(sorted(names)) if names else "all of Airflow's context, as **kwargs"
        found = f"{arguments.signature} takes {given}, which differs from run to run"
        way_out = "bind what it needs of it, partial={'day': '{{ ds }}'}, or leave reuse out"
        raise DeclarationValueError(owner, "reuse", f"{found}; {way_out}")


def check_results_path(
    owner: str, results_path: object, items_per_task: object, *, combine: object, reuse: object
) -> None:
    """Check that the values of items can go into files, other ones in each run."""
    if results_path is None:
        return
    is_path = hasattr(type(results_path), "joinpath")  # to import ObjectStoragePath takes long
    if not isinstance(results_path, str) and not is_path and not is_run_time(results_path):
        problem = f"expected a text, or an ObjectStoragePath, found {typed(results_path)}"
        raise DeclarationTypeError(owner, "results_path", problem)
    if items_per_task is None:
        problem = "is for the values of the items of one task; give items_per_task too"
        raise DeclarationValueError(owner, "results_path", problem)
    if combine is not None:
        problem = "keeps the value of each item, but combine keeps none; leave one of them out"
        raise DeclarationValueError(owner, "results_path", problem)
    if reuse is not None:
        problem = "is for all values of a run, but reuse keeps values in its own store; leave one of them out"
        raise DeclarationValueError(owner, "results_path", problem)
    if is_run_time(results_path):
        return
    if "{{" not in str(results_path):
        found = f"found {str(results_path)!r}, which is the same in every run, and one writes over another's"
        problem = f"{found}; let each have its own folder: …/{{{{ run_id }}}}"
        raise DeclarationValueError(owner, "results_path", problem)


def check_results_format(owner: str, results_format: object, results_path: object) -> None:
    """Check that values can be written so, and that they are written."""
    jsonl, parquet = formats = get_args(ResultsFormat)
    expected = f"expected {jsonl!r} or {parquet!r}, found"
    if not isinstance(results_format, str):
        raise DeclarationTypeError(owner, "results_format", f"{expected} {typed(results_format)}")
    if results_format not in formats:
        raise DeclarationValueError(owner, "results_format", f"{expected} {results_format!r}")
    if results_format != jsonl and results_path is None:
        problem = "is what the values in results_path are written as; give results_path too"
        raise DeclarationValueError(owner, "results_format", problem)


def check_results_folder(owner: str, results_path: object, tasks: Iterable[Any]) -> None:
    """Check that no other group of the Dag writes its values into the same folder."""
    for task in tasks if isinstance(results_path, str) else ():
        if results_path == getattr(task, "partial_kwargs", {}).get("results_path"):
            found = f"found {results_path!r}, which {task.task_group.group_id!r} has too"
            problem = f"{found}, and they would write over each other's files; give each its own folder"
            raise DeclarationValueError(owner, "results_path", problem)


def check_item_retries(
    owner: str, item_retries: int, item_retry_delay: object, items_per_task: object
) -> None:
    """Check how often, and after what time, items of a batch are tried again."""
    check_number(owner, "item_retries", item_retries, least=0)
    if item_retries and items_per_task is None:
        problem = "is for the items of one task; give items_per_task too, or default_args={'retries': …}"
        raise DeclarationValueError(owner, "item_retries", problem)
    if item_retry_delay is None:
        return
    if isinstance(item_retry_delay, bool) or not isinstance(item_retry_delay, timedelta | int | float):
        problem = f"expected a timedelta, or seconds, found {typed(item_retry_delay)}"
        raise DeclarationTypeError(owner, "item_retry_delay", problem)
    if not 0 <= seconds_in(item_retry_delay) < MOST_SECONDS:
        problem = f"expected 0 s or more, found {typed(item_retry_delay)}"
        raise DeclarationValueError(owner, "item_retry_delay", problem)
    if not item_retries:
        problem = "is between the tries of an item; give item_retries too"
        raise DeclarationValueError(owner, "item_retry_delay", problem)


def check_item_timeout(owner: str, item_timeout: object, items_per_task: object) -> None:
    """Check for how long an item of a batch may run."""
    if item_timeout is None:
        return
    if isinstance(item_timeout, bool) or not isinstance(item_timeout, timedelta | int | float):
        problem = f"expected a timedelta, or seconds, found {typed(item_timeout)}"
        raise DeclarationTypeError(owner, "item_timeout", problem)
    if not 0 < seconds_in(item_timeout) < MOST_SECONDS:
        problem = f"expected more than 0 s, found {typed(item_timeout)}; leave it out for no limit"
        raise DeclarationValueError(owner, "item_timeout", problem)
    if items_per_task is None:
        problem = (
            "is for the items of one task; give items_per_task too, or default_args={'execution_timeout': …}"
        )
        raise DeclarationValueError(owner, "item_timeout", problem)


def check_task_outlasts_item(
    owner: str, item_timeout: timedelta | float | None, execution_timeout: object
) -> None:
    """Check that an item's time is over before its task's."""
    if item_timeout is None or not isinstance(execution_timeout, timedelta):
        return
    if seconds_in(item_timeout) >= execution_timeout.total_seconds():
        found = (
            f"found {seconds_in(item_timeout):g} s, but its task has execution_timeout={execution_timeout}"
        )
        problem = f"{found}, which ends before; lower it, or raise execution_timeout"
        raise DeclarationValueError(owner, "item_timeout", problem)


def check_rate(owner: str, items_per_second: object, items_per_task: object) -> None:
    """Check that a rate is one, and of items that tasks start."""
    if items_per_second is None:
        return
    if isinstance(items_per_second, bool) or not isinstance(items_per_second, int | float):
        problem = f"expected a number above 0, found {typed(items_per_second)}"
        raise DeclarationTypeError(owner, "items_per_second", problem)
    if not 0 < items_per_second < MOST_PER_SECOND:
        problem = f"expected a number above 0, and below a million, found {typed(items_per_second)}"
        raise DeclarationValueError(owner, "items_per_second", problem)
    if items_per_task is None:
        problem = "is for the items of tasks, and Airflow has no rate for the tasks; give items_per_task too"
        raise DeclarationValueError(owner, "items_per_second", problem)


def check_rate_is_shared(
    owner: str, rate: float | None, max_concurrency: int | None, items_per_task: object, count: int | None
) -> None:
    """Check that each task can know its share of a rate, and that no second sees more than twice the rate."""
    is_one_task = isinstance(items_per_task, int) and count is not None and count <= items_per_task
    if rate is None or is_one_task:
        return
    if max_concurrency is None:
        problem = "is shared by the tasks that run at once; give max_concurrency, their number, too"
        raise DeclarationValueError(owner, "items_per_second", problem)
    if max_concurrency > (most := most_tasks(rate)):
        problem = (
            f"found {rate:g} for {max_concurrency} tasks, which could all start an item in one second, more "
            f"than twice the rate; give max_concurrency={most}, and item_concurrency for more at once in each"
        )
        raise DeclarationValueError(owner, "items_per_second", problem)


def check_retry_policy(owner: str, policy: object, item_retries: int) -> None:
    """Check that a policy of retries is asked about something that it knows."""
    if policy is None:
        return
    if "retry_policy" not in signature(BaseOperator.__init__).parameters:
        problem = "Airflow has it from 3.3 on, and this one would ignore it; leave it out"
        raise DeclarationValueError(owner, "retry_policy", problem)
    if not callable(getattr(policy, "evaluate", None)):
        raise DeclarationTypeError(owner, "retry_policy", f"expected a RetryPolicy, found {typed(policy)}")
    if not item_retries:
        problem = (
            "a task of items fails with BatchFailedError, whatever they raised, so it has no effect; give "
            "item_retries, for it to be asked about each item, or default_args={'retry_policy': None}"
        )
        raise DeclarationValueError(owner, "retry_policy", problem)


def check_mapped(owner: str, mode: Mode, mapped: object, prefix_group_id: object, branch: object) -> None:
    """Check that a group can have a mapped task where it has to have one."""
    if mapped is not None and not isinstance(mapped, bool):
        raise DeclarationTypeError(owner, "mapped", f"expected True or False, found {typed(mapped)}")
    if mode == "static":
        return
    if mapped is False:
        because = "items_per_task=" if mode == "batched" else "a number known only at run time"
        problem = f"found False, but {because} needs a mapped task; leave it out"
        raise DeclarationValueError(owner, "mapped", problem)
    if not prefix_group_id:
        problem = f"found False, but the task of a {mode} group would then have the id 'each'; leave it out"
        raise DeclarationValueError(owner, "prefix_group_id", problem)
    if mode == "mapped" and isinstance(branch, Mapping):
        found = "found True, but branch is a mapping, and a mapped task runs one kind of branch"
        problem = f"{found}; leave mapped out, or give items_per_task= to run them as items of one task"
        raise DeclarationValueError(owner, "mapped", problem)


def check_mapped_group(owner: str, mode: Mode, count: object, items: object, group_id: str | None) -> None:
    """Check that a group with a mapped task is in no mapped task group."""
    if mode != "static" and group_id is not None:
        argument = "items_per_task" if mode == "batched" else "mapped"
        if is_run_time(count) or is_run_time(items):
            argument = "count" if is_run_time(count) else "items"
        problem = (
            f"Airflow can't map a task within the mapped task group {group_id!r}, so only a static group "
            "can be there: give a count or items known at parse time, and neither mapped nor items_per_task"
        )
        raise DeclarationValueError(owner, argument, problem)


def check_limit(owner: str, max_concurrency: int | None, where: str, settings: Mapping[str, Any]) -> None:
    """Check that the settings of a branch, or of the group's ``default_args``, don't contradict its limit."""
    name = "max_active_tis_per_dagrun"
    if max_concurrency is not None and settings.get(name) not in (None, max_concurrency):
        problem = f"found {max_concurrency}, but {where} sets {name}={settings[name]}; leave one of them out"
        raise DeclarationValueError(owner, "max_concurrency", problem)


def check_unused_limits(
    owner: str, tasks: Sequence[AnyOperator], own: Mapping[str, Any], around: Mapping[str, Any], *, ways: str
) -> None:
    """
    Refuse Airflow's limits on a static branch, for they count the instances of one task.

    ``max_active_tis_per_dag`` would hold for each branch alone, over all runs. In a mapped task group, and
    for mapped tasks of a branch, both limit something. In ``default_args`` of the Dag, or of groups around
    this one, they may be meant for other tasks: an error there would leave a Dag no way to have them.

    :param tasks: Those of one branch.
    :param own: The group's ``default_args``; ``around``: those of the Dag and of the groups around it.
    :param ways: What does limit the branches.
    """
    singles = [task for task in tasks if not task.is_mapped and nearest_mapped_group(task.task_group) is None]
    for name in ("max_active_tis_per_dagrun", "max_active_tis_per_dag"):
        for task in singles:
            limit = getattr(task, name)
            is_own = limit == own.get(name)
            if limit in (None, around.get(name)) or (is_own and len(singles) < len(tasks)):
                continue
            fault = f"{name}={limit} limits the instances of one task, but {task.task_id!r} is a single one"
            problem = f"{fault}, and the branches run at once all the same; {ways}"
            raise DeclarationValueError(owner, "default_args" if is_own else "branch", problem)
