"""What a branch can do to its fan-in, and to its neighbours, by what it returns, pushes and raises."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import task
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.log import mask_secret
from hypothesis import given
from hypothesis import strategies as st

import airflow_fanout
from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.execution_time.accounting import Problem, problems_listing
from airflow_fanout.execution_time.batch import Batch
from airflow_fanout.execution_time.batched import failures_of_others
from airflow_fanout.execution_time.recording import redacted_error
from airflow_fanout.execution_time.xcom import NOTHING
from airflow_fanout.reports import branches as branch_runs
from airflow_fanout.reports.runs import TaskRun
from airflow_fanout.rules.records import RECORD_KEY, batch_key, is_of_batch
from airflow_fanout.rules.wording import ERROR_LENGTH, on_one_line
from airflow_fanout.serialization.stored_values import deserialized
from tests.unit.fake_batch import run_batch
from tests.unit.fake_run import TASK_INSTANCE, FakeRun, Verdict, run_fan_in

if TYPE_CHECKING:
    from airflow.sdk import DAG

pytestmark = pytest.mark.usefixtures("dag")

PACKAGE = Path(airflow_fanout.__file__).parent

WHOLE = {
    "state": "batch",
    "map_index": 1,
    "start": 2,
    "names": None,
    "states": "SF",
    "errors": {"1": "ValueError: broken"},
    "stopped": None,
    "seconds": [1.0, 1.0],
    "cpu_seconds": [1.0, 1.0],
    "peak_memory_bytes": 1,
}
"""A record of a batch of two items."""

RECORDS: list[Any] = [
    pytest.param("text", id="a text"),
    pytest.param(8, id="a number"),
    pytest.param([{"state": "success"}], id="a list"),
    pytest.param({}, id="empty"),
    pytest.param({"state": ["success"]}, id="a state that is a list"),
    pytest.param({"state": {"a": 1}, "map_index": {}}, id="a map index that is a dict"),
    pytest.param({"state": "success", "has_value": "yes", "map_index": "1"}, id="texts instead of numbers"),
    pytest.param({"state": "success", "map_index": -1}, id="a negative map index"),
    pytest.param({"state": "success", "map_index": math.nan}, id="a map index that is no number"),
    pytest.param({"state": "success", "map_index": 10**400}, id="an endless map index"),
    pytest.param({"state": "success", "map_index": 1, "name": ["a"]}, id="a name that is a list"),
    pytest.param({"state": "failed", "map_index": 1, "error": {"a": 1}}, id="an error that is a dict"),
    pytest.param({"state": "failed", "map_index": 1, "error": "x" * 10**6}, id="an endless error"),
    pytest.param(
        {"state": "stopped", "map_index": 1, "error": "E", "seconds": math.nan}, id="stopped, it says"
    ),
    pytest.param({"state": "not stored", "map_index": 1, "error": 8}, id="not stored, it says"),
    pytest.param({"state": "batch", "map_index": 1}, id="a batch without anything"),
    pytest.param({**WHOLE, "states": 8}, id="a batch whose states are a number"),
    pytest.param({**WHOLE, "states": "SSSSSS"}, id="a batch with too many states"),
    pytest.param({**WHOLE, "states": "??"}, id="a batch with states that nobody knows"),
    pytest.param({**WHOLE, "errors": ["a"]}, id="a batch whose errors are a list"),
    pytest.param({**WHOLE, "errors": {"x": 1, "1": [2]}}, id="a batch whose errors are of no item"),
    pytest.param({**WHOLE, "names": ["a"]}, id="a batch with too few names"),
    pytest.param({**WHOLE, "names": [["a"], {}]}, id="a batch whose names are no texts"),
    pytest.param({**WHOLE, "seconds": [math.nan, -1]}, id="a batch whose seconds are no seconds"),
    pytest.param({**WHOLE, "seconds": ["1", None]}, id="a batch whose seconds are texts"),
    pytest.param({**WHOLE, "seconds": 1}, id="a batch whose seconds are one number"),
    pytest.param({**WHOLE, "stopped": {"a": 1}, "states": "XX"}, id="a batch with a reason that is a dict"),
]


def work(item: str = "") -> str:
    return item


@task
def load() -> Any:
    return []


def outcomes_of(results: Any) -> dict[str, tuple[str, Any, str | None]]:
    return {name: (o.state, o.value, o.error) for name, o in results.outcomes.items()}


def collect(run: FakeRun, group: FanOutGroup, *, found: Any = None) -> Verdict:
    """Collect a group; ``found`` is what its items' task returned."""
    fan_in = FanInOperator(task_id="f", fan_out=group, python_callable=outcomes_of, min_success=1)
    with mock.patch.object(PlainXComArg, "resolve", return_value=found):
        return run_fan_in(fan_in, run)


def outcomes(verdict: Verdict) -> dict[str, tuple[str, Any, str | None]]:
    """What every branch was taken for; all of it has to be of the shape that is promised."""
    assert verdict.error is None, verdict.message
    json.dumps(verdict.report, allow_nan=False)
    found: dict[str, tuple[str, Any, str | None]] = verdict.value
    for _, _, error in found.values():
        assert error is None or error == on_one_line(error)
    return found


def instances(*records: Any, states: str = "SSS") -> FakeRun:
    """A mapped group of three; each that succeeded has pushed a value, and any record at all."""
    run = FakeRun().add("load")
    for index, (record, letter) in enumerate(zip(records, states, strict=True)):
        succeeded = letter == "S"
        value = f"value {index}" if succeeded else NOTHING
        run.add("g.each", "success" if succeeded else "failed", value, map_index=index, record=record)
    return run


def honest(index: int, **more: Any) -> dict[str, Any]:
    return {"state": "success", "has_value": True, "map_index": index, **more}


class TestARecordOfAnotherShape:
    @pytest.mark.parametrize("record", RECORDS)
    def test_beside_a_value_changes_nothing(self, record: Any) -> None:
        run = FakeRun().succeed("g.g_0", "a").add("g.g_1", value="b", record=record)

        found = outcomes(collect(run, FanOutGroup("g", branch=work, items=["", ""])))

        assert found == {"g_0": ("success", "a", None), "g_1": ("success", "b", None)}

    @pytest.mark.parametrize("record", RECORDS)
    def test_of_a_failure_leaves_it_a_failure(self, record: Any) -> None:
        run = FakeRun().succeed("g.g_0", "a").add("g.g_1", "failed", record=record)

        found = outcomes(collect(run, FanOutGroup("g", branch=work, items=["", ""])))

        assert (found["g_0"], found["g_1"][:2]) == (("success", "a", None), ("failed", None))

    @pytest.mark.parametrize("record", RECORDS)
    @pytest.mark.parametrize("states", ["SSS", "SFS"])
    def test_of_an_instance_is_its_own_affair(self, record: Any, states: str) -> None:
        run = instances(honest(0), record, honest(2), states=states)

        found = outcomes(collect(run, FanOutGroup("g", branch=work, items=load()), found=["", "", ""]))

        assert list(found) == ["g_0", "g_1", "g_2"]
        assert found["g_0"] == ("success", "value 0", None)
        assert found["g_2"] == ("success", "value 2", None)
        assert found["g_1"][1] in {"value 1", None}

    @pytest.mark.parametrize("record", RECORDS)
    @pytest.mark.parametrize("state", ["success", "failed"])
    @pytest.mark.parametrize("names", [None, ["x", "y"]], ids=["numbered", "named"])
    def test_of_a_batch_is_its_own_affair(self, record: Any, state: str, names: list[str] | None) -> None:
        good = {**WHOLE, "map_index": 0, "start": 0, "names": names, "states": "SS", "errors": {}}
        first, second = names or ["g_0", "g_1"]
        run = FakeRun().add("load").add("g.split", value=[[0, 2], [2, 4]])
        run.add("g.each", map_index=0, record=good, value={first: "a", second: "b"})
        run.add("g.each", state, map_index=1, record=record, value={"g_2": "c", first: "stolen"})

        found = outcomes(collect(run, FanOutGroup("g", branch=work, items=load(), items_per_task=2)))

        assert list(found.values())[:2] == [("success", "a", None), ("success", "b", None)]
        assert len(found) == 4

    @pytest.mark.parametrize("record", RECORDS)
    def test_does_not_keep_other_batches_from_counting_failures(self, record: Any) -> None:
        run = FakeRun().add("g.split", value=[[0, 2], [2, 4], [4, 6]])
        run.add("g.each", "failed", map_index=0, record={**WHOLE, "map_index": 0})
        run.add("g.each", "failed", map_index=1, record=record)

        assert 1 <= failures_of_others(run.reader(), "g.each", 2, split_task_id="g.split") <= 7

    @pytest.mark.parametrize("record", RECORDS)
    @pytest.mark.parametrize("state", ["success", "failed", "skipped"])
    def test_is_none_for_whoever_looks_at_the_run(self, record: Any, state: str) -> None:
        instance = TaskRun(task_id="g.g_0", state=state, record=record, has_value=True)

        branch = branch_runs._branch("g_0", [instance], recorded=True)

        assert branch.state == state
        assert branch.error is None or branch.error == on_one_line(branch.error)
        json.dumps(branch.timing.work_seconds, allow_nan=False)

    def test_a_whole_one_is_taken(self) -> None:
        assert is_of_batch(WHOLE)


class TestALie:
    @pytest.mark.parametrize("claimed", [0, 2, 7], ids=["an earlier one", "a later one", "none"])
    @pytest.mark.parametrize("said", [{}, {"has_value": False}, {"state": "failed", "error": "forged"}])
    def test_about_whose_record_it_is_harms_nobody_else(self, claimed: int, said: dict[str, Any]) -> None:
        run = instances(honest(0), honest(claimed, **said), honest(2))

        found = outcomes(collect(run, FanOutGroup("g", branch=work, items=load()), found=["", "", ""]))

        assert (found["g_0"], found["g_2"]) == (("success", "value 0", None), ("success", "value 2", None))
        assert found["g_1"][1] in {"value 1", None}

    @pytest.mark.parametrize("claimed", ["a", "c", "", None, 8], ids=repr)
    def test_about_a_name_takes_it_from_nobody(self, claimed: Any) -> None:
        run = instances(honest(0, name="a"), honest(1, name=claimed), honest(2, name="c"))

        found = outcomes(
            collect(run, FanOutGroup("g", branch=work, items=load()), found={"a": 0, "b": 1, "c": 2})
        )

        assert {name: value for name, (_, value, _) in found.items()} == {
            "a": "value 0",
            "b": "value 1",
            "c": "value 2",
        }

    def test_about_a_name_where_there_are_none_is_not_heard(self) -> None:
        run = instances(honest(0), honest(1, name="g_0"), honest(2))

        assert list(outcomes(collect(run, FanOutGroup("g", branch=work, count=load())))) == [
            "g_0",
            "g_1",
            "g_2",
        ]

    def test_about_having_a_value_shifts_nobody_elses(self) -> None:
        run = instances(honest(0), honest(1, has_value=False), honest(2))

        found = outcomes(collect(run, FanOutGroup("g", branch=work, items=load()), found=["", "", ""]))

        assert [value for _, value, _ in found.values()] == ["value 0", "value 1", "value 2"]


class TestATextInALog:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            pytest.param("plain: ünïcödé 日本 <b>&amp;</b>", "plain: ünïcödé 日本 <b>&amp;</b>", id="plain"),
            pytest.param("a\nb", "a b", id="a line break"),
            pytest.param("a\r\n  b\r", "a b", id="a carriage return"),
            pytest.param("a\u2028b\x0bc\x85d", "a b c d", id="breaks of other kinds"),
            pytest.param("\x1b[2J\x1b[31mred\x07", "\\x1b[2J\\x1b[31mred\\x07", id="terminal escapes"),
            pytest.param("\x9b31m", "\\x9b31m", id="an escape of one byte"),
            pytest.param("admin\u202etxt", "admin\\u202etxt", id="right to left"),
            pytest.param("a\ud800b", "a\\ud800b", id="half a character"),
            pytest.param("a\x00b\tc", "a\\x00b\\tc", id="a zero and a tabulator"),
        ],
    )
    def test_is_one_line_of_printable_characters(self, text: str, said: str) -> None:
        assert on_one_line(text) == said
        assert redacted_error(text) == said

    @given(text=st.text(st.characters()))
    def test_whatever_it_is_it_can_be_shown_and_stored(self, text: str) -> None:
        said = on_one_line(text)

        assert said.isprintable()
        assert len(said) <= ERROR_LENGTH
        assert said.encode().decode() == said
        assert on_one_line(said) == said

    def test_forges_no_other_branchs_line(self) -> None:
        forged = "oops\n  g_1: failed: everything is lost"
        run = (
            FakeRun().add("g.g_0", "failed", record={"state": "failed", "error": forged}).succeed("g.g_1", 1)
        )
        group = FanOutGroup("g", branch=work, items=["", ""])

        verdict = run_fan_in(FanInOperator(task_id="f", fan_out=group), run)

        assert [line.partition(":")[0] for line in verdict.message.splitlines()[1:]] == ["  g_0"]

    def test_a_name_forges_no_line(self) -> None:
        problem: Problem = {"name": "a\n  b", "state": "failed", "error": None}

        assert problems_listing([problem], 1) == "  a b: failed"

    def test_an_item_forges_no_line_of_its_batch(self) -> None:
        def work(item: str) -> None:
            raise ValueError(item)

        items = {"names": ["a\n  z: fine", "b"], "items": ["x\n  y: fine", "\x1b[2J"]}
        ran = run_batch(FanOutGroup("g", branch=work, items=load(), items_per_task=2), 0, 2, payload=items)

        assert str(ran.error).splitlines()[1:] == [
            "  a z: fine: ValueError: x y: fine",
            "  b: ValueError: \\x1b[2J",
        ]


class UnreadableError(Exception):
    """Raises when it is asked what it says."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__()
        self.raised = raised

    def __str__(self) -> str:
        raise self.raised


class UnreadableSkipError(UnreadableError, AirflowSkipException):
    pass


def batch_of(*fates: Any, concurrency: int = 1) -> Batch:
    """Items that return these values, or raise these exceptions."""

    def call(index: int) -> Any:
        if isinstance(fates[index], BaseException):
            raise fates[index]
        return fates[index]

    return Batch(len(fates), call, describe=redacted_error, concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [1, 3], ids=["one-after-another", "threads"])
@pytest.mark.parametrize(
    ("raised", "status", "error"),
    [
        pytest.param(
            UnreadableError(SystemExit(3)),
            "F",
            "UnreadableError: (its message can't be read: SystemExit)",
            id="unreadable-failure",
        ),
        pytest.param(
            UnreadableSkipError(RecursionError()),
            "K",
            "(its message can't be read: RecursionError)",
            id="unreadable-skip",
        ),
        pytest.param(
            AirflowSkipException("no open-sesame-4711 today"), "K", "no *** today", id="a-secret-in-a-skip"
        ),
    ],
)
def test_an_exception_of_an_item_is_put_into_words_and_harms_no_other(
    raised: Exception, status: str, error: str, concurrency: int
) -> None:
    mask_secret("open-sesame-4711")
    batch = batch_of("a", raised, "b", concurrency=concurrency)
    batch.run()

    assert "".join(batch.results[index].status for index in range(3)) == f"S{status}S"
    assert batch.results[1].error == error


def test_a_timeout_while_an_exception_says_what_it_is_ends_the_batch() -> None:
    batch = batch_of("a", UnreadableError(AirflowTaskTimeout()), "b")

    with pytest.raises(AirflowTaskTimeout):
        batch.run()
    assert list(batch.results) == [0]


def first_instance(dag: DAG) -> Any:
    """The first instance of a mapped group's task, with its arguments rendered as on a worker."""
    ti = mock.Mock(spec=TASK_INSTANCE)
    ti.map_index = 0
    context: Any = {
        "ti": ti,
        "dag": dag,
        "dag_run": SimpleNamespace(conf={}),
        "ds": "2026-01-01",
        "expanded_ti_count": 1,
    }
    dag.get_task("g.each").render_template_fields(context)
    return context["task"]


class TestAValue:
    @pytest.mark.parametrize(
        "classname",
        [
            "os.system",
            "builtins.eval",
            "subprocess.Popen",
            "airflow_fanout.rules.outcomes.BranchOutcome",
            "no.such",
        ],
    )
    def test_of_a_class_that_is_not_allowed_is_not_imported(self, classname: str) -> None:
        value = {"__classname__": classname, "__version__": 0, "__data__": "touch here"}

        with (
            mock.patch("airflow.sdk.serde.import_string", autospec=True) as importer,
            pytest.raises(
                UnreadableValueError, match=r"^What 'work' pushed can't be read: ImportError: .*allow"
            ),
        ):
            deserialized(SimpleNamespace(value=value), "What 'work' pushed")
        importer.assert_not_called()

    def test_that_is_nested_too_deep_is_told_by_name_or_read_whole(self) -> None:
        """Python 3.13 goes deeper than older ones."""
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]

        said, found, depth = "", None, 0
        try:
            found = deserialized(SimpleNamespace(value=value), "What 'work' pushed")
        except UnreadableValueError as unreadable:
            said = str(unreadable)
        while found:
            (found,) = found
            depth += 1

        assert depth == 100_000 or said.startswith("What 'work' pushed can't be read: RecursionError")

    @pytest.mark.parametrize("mapped", [False, True], ids=["static", "mapped"])
    def test_that_cannot_be_read_fails_the_fan_in_and_nothing_is_left_out(self, mapped: bool) -> None:
        unreadable = UnreadableValueError("What 'g' pushed", cause=ImportError("not allowed"))
        if mapped:
            run, group = (
                instances(honest(0), honest(1), honest(2)),
                FanOutGroup("g", branch=work, count=load()),
            )
            run.xcoms["g.each", 1, "return_value"] = unreadable
        else:
            group = FanOutGroup("g", branch=work, items=["", ""])
            run = FakeRun().succeed("g.g_0", "a").succeed("g.g_1", unreadable)

        assert collect(run, group).error is unreadable

    def test_is_not_rendered_when_it_is_an_item(self) -> None:
        payload = {"names": None, "items": ["{{ 7 * 7 }}", "{{ ti.xcom_pull() }}"]}
        group = FanOutGroup("g", branch=work, items=load(), items_per_task=2)

        ran = run_batch(group, 0, 2, payload=payload)

        assert list(ran.value.values()) == payload["items"]

    @pytest.mark.parametrize(
        ("branch", "item", "argument", "expected"),
        [
            pytest.param(work, "{{ 7 * 7 }}", "op_kwargs", {"item": "{{ 7 * 7 }}"}, id="a function"),
            pytest.param(
                work, {"a": ["{% x %}"]}, "op_kwargs", {"item": {"a": ["{% x %}"]}}, id="deep in an item"
            ),
            pytest.param(
                task.bash(lambda item: item), "run.sh", "op_kwargs", {"item": "run.sh"}, id="a file's name"
            ),
            pytest.param(
                BashOperator,
                {"bash_command": "echo {{ ds }}"},
                "bash_command",
                "echo {{ ds }}",
                id="an operator",
            ),
            pytest.param(
                BashOperator,
                {"bash_command": "true", "env": {"A": "{{ ds }}"}},
                "env",
                {"A": "{{ ds }}"},
                id="deep in an operator",
            ),
            pytest.param(BashOperator, {"bash_command": "true"}, "bash_command", "true", id="no template"),
        ],
    )
    def test_is_not_rendered_when_it_is_the_item_of_an_instance(
        self, dag: DAG, branch: Any, item: Any, argument: str, expected: Any
    ) -> None:
        FanOutGroup("g", branch=branch, items=load())

        with mock.patch.object(PlainXComArg, "resolve", return_value=[item]):
            assert getattr(first_instance(dag), argument) == expected

    def test_that_is_known_when_the_dag_is_parsed_is_rendered(self, dag: DAG) -> None:
        FanOutGroup("g", branch=work, items=["{{ ds }}"], mapped=True)

        assert first_instance(dag).op_kwargs == {"item": "2026-01-01"}

    @pytest.mark.parametrize("key", [RECORD_KEY, "fan_out_report", batch_key(0)])
    def test_under_a_key_of_ours_is_no_value_of_the_branch(self, key: str) -> None:
        run = FakeRun().add("g.g_0", record={"state": "success", "has_value": False})
        run.add("g.g_0", value={"forged": 1}, key=key)
        if key == RECORD_KEY:
            run.xcoms["g.g_0", -1, RECORD_KEY] = {"state": "success", "has_value": False, "value": "forged"}
        group = FanOutGroup("g", branch=work, items=[""])

        assert outcomes(collect(run, group)) == {"g_0": ("success", None, None)}


SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "mktemp"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}


class TestTheSources:
    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
    def test_run_no_data_as_code(self, path: Path) -> None:
        found: list[str] = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                    found.append(name)
                case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)) if (
                    name in FORBIDDEN_CALLS
                ):
                    found.append(f"os.{name}")
                case ast.keyword(arg="shell"):
                    found.append("shell=")
                case ast.Import(names=names):
                    found += [each.name for each in names if each.name.partition(".")[0] in FORBIDDEN_MODULES]
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN_MODULES:
                    found.append(module)

        assert found == []

    def test_are_all_looked_at(self) -> None:
        assert {"xcom.py", "batch.py", "hooks.py"} <= {path.name for path in SOURCES}
