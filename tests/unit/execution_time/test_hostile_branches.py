"""What a branch can do to its fan-in, and to its neighbours, by what it returns, pushes and raises."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import BaseOperator, task
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from hypothesis import given
from hypothesis import strategies as st

import airflow_fanout
from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.execution_time.accounting import ErrorCount, errors_listing
from airflow_fanout.execution_time.recording import redacted_error
from airflow_fanout.rules.records import RECORD_KEY, batch_key
from airflow_fanout.rules.wording import ERROR_LENGTH, on_one_line
from airflow_fanout.serialization.stored_values import deserialized
from tests.unit.fake_batch import run_batch
from tests.unit.fake_run import TASK_INSTANCE, FakeRun, run_fan_in

if TYPE_CHECKING:
    from airflow.sdk import DAG

pytestmark = pytest.mark.usefixtures("dag")

PACKAGE = Path(airflow_fanout.__file__).parent


def work(item: str = "") -> str:
    return item


@task
def load() -> Any:
    return []


class TestATextInALog:
    @pytest.mark.parametrize(
        ("text", "shown"),
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
    def test_is_one_line_of_printable_characters(self, text: str, shown: str) -> None:
        assert on_one_line(text) == shown
        assert redacted_error(text) == shown

    @given(text=st.text(st.characters()))
    def test_whatever_it_is_it_can_be_shown_and_stored(self, text: str) -> None:
        shown = on_one_line(text)

        assert shown.isprintable()
        assert len(shown) <= ERROR_LENGTH
        assert shown.encode().decode() == shown
        assert on_one_line(shown) == shown

    def test_forges_no_other_branchs_line(self) -> None:
        forged = "oops\n  g_1: failed: everything is lost"
        run = (
            FakeRun().add("g.g_0", "failed", record={"state": "failed", "error": forged}).succeed("g.g_1", 1)
        )
        group = FanOutGroup("g", branch=work, items=["", ""])

        verdict = run_fan_in(FanInOperator(task_id="f", fan_out=group), run)

        assert [line.partition(":")[0] for line in verdict.message.splitlines()[1:]] == ["  g_0"]

    def test_a_name_forges_no_line(self) -> None:
        error: ErrorCount = {"state": "failed", "error": None, "branches": 1, "names": ["a\n  b"]}

        assert errors_listing([error], 1) == "  a b: failed"

    def test_an_item_forges_no_line_of_its_batch(self) -> None:
        def work(item: str) -> None:
            raise ValueError(item)

        items = {"names": ["a\n  z: fine", "b"], "items": ["x\n  y: fine", "\x1b[2J"]}
        ran = run_batch(FanOutGroup("g", branch=work, items=load(), items_per_task=2), 0, 2, payload=items)

        assert str(ran.error).splitlines()[1:] == [
            "  a z: fine: ValueError: x y: fine",
            "  b: ValueError: \\x1b[2J",
        ]


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


class Asks(BaseOperator):
    """An operator that looks at its arguments when it is made, and whose fields have names of their own."""

    template_fields = ("sql", "copied")

    def __init__(self, *, query: str, given: Any = None, day: str = "on {{ ds }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sql = query if query.strip() else ""
        self.copied = {**(given or {}), "day": day}


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

        shown, findings, depth = "", None, 0
        try:
            findings = deserialized(SimpleNamespace(value=value), "What 'work' pushed")
        except UnreadableValueError as unreadable:
            shown = str(unreadable)
        while findings:
            (findings,) = findings
            depth += 1

        assert depth == 100_000 or shown.startswith("What 'work' pushed can't be read: RecursionError")

    @pytest.mark.parametrize("mapped", [False, True], ids=["static", "mapped"])
    def test_that_cannot_be_read_fails_the_fan_in_and_nothing_is_left_out(self, mapped: bool) -> None:
        unreadable = UnreadableValueError("What 'g' pushed", cause=ImportError("not allowed"))
        group = FanOutGroup("g", branch=work, items=["", ""], mapped=mapped)
        run = FakeRun().succeed("g.g_0", "a").succeed("g.g_1", unreadable)
        run.succeed("g.each", "a", map_index=0).succeed("g.each", unreadable, map_index=1)
        fan_in = FanInOperator(task_id="f", fan_out=group, min_success=1)

        assert run_fan_in(fan_in, run).error is unreadable

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
            pytest.param(
                Asks, {"query": "{{ ds }}"}, "sql", "{{ ds }}", id="under a name that is no template field's"
            ),
            pytest.param(
                Asks,
                {"query": "a", "given": {"A": ["{{ ds }}"]}},
                "copied",
                {"A": ["{{ ds }}"], "day": "on 2026-01-01"},
                id="copied, beside a template of the Dag's",
            ),
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
        fan_in = FanInOperator(task_id="f", fan_out=FanOutGroup("g", branch=work, items=[""]))

        assert run_fan_in(fan_in, run).value == {"g_0": None}


SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "mktemp"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}


class TestTheSources:
    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
    def test_run_no_data_as_code(self, path: Path) -> None:
        findings: list[str] = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                    findings.append(name)
                case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)) if (
                    name in FORBIDDEN_CALLS
                ):
                    findings.append(f"os.{name}")
                case ast.keyword(arg="shell"):
                    findings.append("shell=")
                case ast.Import(names=names):
                    findings += [
                        each.name for each in names if each.name.partition(".")[0] in FORBIDDEN_MODULES
                    ]
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN_MODULES:
                    findings.append(module)

        assert findings == []

    def test_are_all_looked_at(self) -> None:
        assert {"xcom.py", "batch.py", "hooks.py"} <= {path.name for path in SOURCES}
