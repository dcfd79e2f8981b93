from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from typing import Any

import airflow
import jsonschema  # type: ignore[import-untyped]
import pytest

import airflow_fanout
from airflow_fanout.get_provider_info import get_provider_info
from tests.unit.parsed import REPOSITORY

SCHEMA = json.loads((importlib.resources.files(airflow) / "provider_info.schema.json").read_text())
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class TestProvider:
    def test_airflow_takes_what_it_says(self) -> None:
        jsonschema.validate(get_provider_info(), SCHEMA)

    def test_the_schema_is_one_that_refuses(self) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**get_provider_info(), "cli": "not a list"}, SCHEMA)

    def test_it_is_found_by_its_entry_point(self) -> None:
        (entry_point,) = [
            entry_point
            for entry_point in importlib.metadata.entry_points(group="apache_airflow_provider")
            if entry_point.value.startswith("airflow_fanout.")
        ]

        assert entry_point.load() is get_provider_info

    def test_its_package_is_the_distribution(self) -> None:
        """Spelt with an underscore, every airflow command fails."""
        assert get_provider_info()["package-name"] == PYPROJECT["project"]["name"] == "airflow-fanout"

    def test_the_commands_that_it_names_are_there(self) -> None:
        for path in get_provider_info()["cli"]:
            assert callable(resolve(path))

    def test_the_modules_that_it_names_are_there(self) -> None:
        for operators in get_provider_info()["operators"]:
            for module in operators["python-modules"]:
                importlib.import_module(module)


class TestPublicNames:
    def test_they_are_sorted(self) -> None:
        assert airflow_fanout.__all__ == sorted(airflow_fanout.__all__)

    @pytest.mark.parametrize("name", airflow_fanout.__all__)
    def test_each_is_there(self, name: str) -> None:
        assert getattr(airflow_fanout, name) is not None
        assert name in dir(airflow_fanout)

    @pytest.mark.parametrize("name", set(airflow_fanout.__all__) - {"__version__"})
    def test_each_is_public_where_it_comes_from(self, name: str) -> None:
        value = getattr(airflow_fanout, name)

        assert getattr(importlib.import_module(value.__module__), name) is value

    def test_another_name_is_not_there(self) -> None:
        with pytest.raises(AttributeError, match="module 'airflow_fanout' has no attribute 'FanOut'"):
            airflow_fanout.FanOut  # noqa: B018

    def test_star_imports_all(self) -> None:
        names: dict[str, object] = {}
        exec("from airflow_fanout import *", names)

        assert set(airflow_fanout.__all__) <= set(names)

    def test_it_is_typed(self) -> None:
        assert (REPOSITORY / "airflow_fanout" / "py.typed").is_file()


MODULES_WITHOUT_AIRFLOW = [
    *("get_provider_info", "reports.advice", "reports.timing", "rules.capacity", "rules.names"),
    *("rules.outcomes", "rules.policy", "rules.records", "serialization.declaration"),
]

SHOW_AIRFLOW_MODULES = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    loaded = [m for m in sys.modules if m == "airflow" or m.startswith("airflow.")]
    if loaded:
        sys.exit(f"{name} imports {loaded[0]}")
"""


def test_what_decides_imports_no_airflow() -> None:
    """Nor does the package itself, which every ``airflow`` command imports."""
    modules = ["airflow_fanout", *(f"airflow_fanout.{module}" for module in MODULES_WITHOUT_AIRFLOW)]
    run = subprocess.run(
        [sys.executable, "-c", SHOW_AIRFLOW_MODULES, *modules],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )

    assert (run.returncode, run.stderr) == (0, "")


COUNT_MODULES = """
import sys
import airflow.sdk, airflow.sdk.execution_time.task_runner
from airflow.providers.standard.operators import empty, python
before = {*sys.modules}
from airflow_fanout import FanInOperator, FanOutGroup
print(*sorted(name for name in {*sys.modules} - before if name.startswith("airflow_fanout.")))
"""


def test_a_dag_file_loads_what_declares_alone() -> None:
    """Every task's process pays for it: a module costs half a millisecond."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT_MODULES], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    loaded = {name.removeprefix("airflow_fanout.") for name in run.stdout.splitlines()[-1].split()}

    assert len(loaded) <= 32
    assert not {
        name
        for name in loaded
        if name.split(".")[0] in {"cli", "demo", "metadata", "reports", "testing", "ui"}
    }
    assert loaded.isdisjoint(
        {
            *("definitions.expansion", "definitions.operator_branches", "definitions.task_group_branches"),
            *("execution_time.accounting", "execution_time.batch", "execution_time.batch_work"),
            *("operators.batch", "operators.split", "rules.outcomes"),
        }
    )
