"""A Dag with every shape of group and fan-in, parsed twice by the serialization tests."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import DAG, TaskGroup, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_fanout import FanInResults


@task
def load() -> str:
    return "text"


@task(retries=3)
def process(text: str, index: int = 0) -> str:
    return f"{text} {index}"


def length(item: str, text: str = "", *, unit: str = "characters") -> str:
    return f"{len(item) + len(text)} {unit}"


def shout(text: str) -> str:
    return text.upper()


@task
def each(word: str) -> str:
    return word


@task_group
def read(path: str, text: str = "") -> Any:
    prepared = load.override(task_id="prepare")()
    words = each.expand(word=[path, text])
    prepared >> words
    with TaskGroup("steps"):
        done = process("words")
    words >> done >> load.override(task_id="clear_up")().as_teardown(setups=prepared)
    return done


@task_group
def nested_fan_out(index: int) -> Any:
    parts = FanOutGroup("parts", branch=read.partial(path=str(index)), items=["x", "y"])
    return FanInOperator(task_id="collect", fan_out=parts).output


@task
def count_words(words: list[str]) -> int:
    return len(words)


@task_group
def steps(word: str) -> Any:
    return process(each(word))


class Scale:
    """Whose text would be its address."""


@dataclass
class Around:
    """Whose text would hold the address of another."""

    scale: Scale = field(default_factory=Scale)


def shift(item: Any, given: Any = None) -> str:
    return f"{item} {given}"


@task_group
def step_of_any(item: Any, given: Any = None) -> Any:
    return task(shift)(item, given)


SECRET = "an item that stays in the Dag file"


def tell_task(context: Context) -> None:
    print(context["task"])


def tell_result(context: Context, result: Any) -> None:
    print(result)


def combine(results: FanInResults, separator: str) -> str:
    return separator.join(map(str, results.values()))


def over(group_id: str, **declared: Any) -> None:
    """Add a group, and its fan-in."""
    FanInOperator(task_id=f"over_{group_id}", fan_out=FanOutGroup(group_id, **declared))


with DAG(
    "every_shape",
    schedule=None,
    default_args={"retries": 1, "on_failure_callback": tell_task, "post_execute": tell_result},
) as dag:
    text = load()
    small: Any = {"pool": "small"}
    count = FanOutGroup("count", branch=process, count=12, partial={"text": text})
    FanOutGroup("items", branch=length, items=["a", "bb"], default_args=small)
    letters = functools.partial(length, unit="letters")
    FanOutGroup("named", branch=letters, items={"first": "a", "second": "b"})
    different = FanOutGroup(
        "different",
        branch={"shout": shout, "process": process.override(retry_delay=timedelta(seconds=1))},
        partial={"text": text},
    )
    with TaskGroup("outer"):
        nested = FanOutGroup("nested", branch=process.partial(text="inner"), count=2)
        FanInOperator(task_id="collect", fan_out=nested)
    plain = FanOutGroup("plain", branch=shout, items=["a", "b", "c"], prefix_group_id=False)
    nothing = FanOutGroup("nothing", branch=shout, items=[])
    several = FanOutGroup("several", branch=read, items=["a", "b", "c"], stop_after_failures=2)
    FanOutGroup("within", branch=nested_fan_out, count=2)
    before: Any = {"pre_execute": tell_task}
    commands = FanOutGroup(
        "commands",
        branch=functools.partial(BashOperator, env={"b": "1", "a": "2"}),
        items=[{"bash_command": "ls"}, {"bash_command": "pwd"}],
        stop_after_failures=1,
        default_args=before,
    )
    sensor = functools.partial(BashSensor, bash_command="true", mode="reschedule")
    piped: list[Any] = [shout, letters]
    FanOutGroup("piped", branch=piped, items=["a", "bb"])
    mixed_branches = {"pipe": [load.function, *piped], "read": read.partial(path="p"), "wait": sensor}
    mixed = FanOutGroup("mixed", branch=mixed_branches)

    @task
    def list_words() -> list[str]:
        return ["a", "b"]

    words = list_words()
    chosen: Any = {"text": dag.param("chosen", "t")}
    # What is known when the Dag is parsed, and has no text that is the same in each process.
    number = dag.param("number", 3)
    tags = {"red", "green", "blue"}
    values: list[Any] = [Scale(), Around(), Lock(), tags, frozenset(tags), {*tags, 1}, shift, len]
    deep: Any = {"a": [(Scale(), frozenset(tags)), {"b": number}], "tags": tags}
    env: Any = {"a": number}
    echo: Any = {"bash_command": "ls"}
    over("mapped_param", branch=length, items=words, partial=chosen)
    over("mapped_group_param", branch=step_of_any, items=words, partial={"given": chosen["text"]})
    over("batched_param", branch=length, items=words, items_per_task=2, partial=chosen)
    over("mapped_items", branch=length, items=words, partial={"text": text})
    over("mapped_names", branch=length, items={"x": "a", "y": "b"}, mapped=True, max_concurrency=2)
    over("mapped_count", branch=process, count=count_words(words), partial={"text": "t"})
    over("mapped_group", branch=steps, items=words, stop_after_failures=1)
    over("mapped_commands", branch=BashOperator, items=[echo], mapped=True)
    in_twos: Any = {"items_per_task": 2, "item_concurrency": 2}
    over("batched_items", branch=length, items=words, default_args=small, **in_twos)
    over("batched_names", branch=shout, items={"x": SECRET, "y": "b"}, items_per_task=1)
    functions = {"shout": shout, "pipe": piped}
    over("batched_functions", branch=functions, partial={"text": text}, items_per_task=2)
    over("run_time_given", branch=shift, items=words, partial={"given": values})
    over("known_items", branch=shift, items=[*values, deep, number], mapped=True)
    over("known_names", branch=shift, items={"a": deep, "b": number}, mapped=True)
    over("known_group_items", branch=step_of_any, items=[*values, [Scale(), tags]], mapped=True)
    over("group_given", branch=step_of_any, items=["a"], partial={"given": [number, tags]}, mapped=True)
    over("own_param", branch=functools.partial(shift, given=[number]), items=["a"], mapped=True)
    over("command_param", branch=functools.partial(BashOperator, env=env), items=[echo], mapped=True)
    over("command_items", branch=BashOperator, items=[{**echo, "env": env}], mapped=True)
    for kind, given in {"values": values, "deep": deep, "param": number, "object": Scale()}.items():
        bound: Any = {"branch": shift, "items": ["a", "b"], "partial": {"given": given}}
        over(f"mapped_{kind}_given", **bound, mapped=True)
        over(f"batched_{kind}_given", **bound, items_per_task=2)

    FanInOperator(task_id="over_several", fan_out=several, min_success=1)
    FanInOperator(task_id="over_commands", fan_out=commands)
    FanInOperator(task_id="over_mixed", fan_out=mixed)
    FanInOperator(
        task_id="combine",
        fan_out=count,
        python_callable=combine,
        op_kwargs={"separator": "{{ ds }}"},
        min_success=3,
        min_success_ratio=0.28,
        count_skipped="failure",
    )
    FanInOperator(task_id="thirds", fan_out=different, min_success_ratio=Fraction(1, 3), on_empty="skip")
    FanInOperator(task_id="over_nothing", fan_out=nothing, on_empty="skip")
    FanInOperator(task_id="over_plain", fan_out=plain)
    shout_each = task(shout).expand(text=["a", "b"])
    FanInOperator(task_id="by_prefix", task_id_prefix="shout", key="custom") << shout_each
