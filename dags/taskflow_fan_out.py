"""
### How well is the standard library documented? In decorators.

Fan-out and fan-in in the TaskFlow style: `@fan_out` on what a branch runs, `@fan_in` on what its results come
together in, and the Dag reads as if it called functions. (`@task.fan_out` and `@task.fan_in`, from
`airflow.sdk`, are the same two; imported like this, an editor completes their options.)

`packages` finds the larger packages of the Python that runs the task, as a mapping `{name: folder}`. `survey`
reads each of them, all at the same time: one mapped task, with the packages' names in the UI. A file that
can't be read costs its package and nothing else; `least_documented` asks for nine of ten. What it returns is
the next fan-out's mapping: `look_closer` lists what lacks a docstring in those packages alone, and `to_do`
puts the lists together.

Options stand where they belong: the tolerance at the fan-in, `retries` and `max_concurrency` at the branch.
`.partial()` and `.expand()` mean what they mean for a `@task`.
"""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk import dag, task

from airflow_fanout.decorators import fan_in, fan_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_fanout import FanInResults

FEWEST_MODULES = 15
"""Modules from which on a package is large."""


def definitions(folder: str, *, private: bool) -> Iterator[tuple[str, bool]]:
    """Full name of each class and function at the top of a module, and whether it has a docstring."""
    for path in sorted(Path(folder).glob("*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                private or not node.name.startswith("_")
            ):
                yield f"{path.stem}.{node.name}", ast.get_docstring(node) is not None


# [START howto_decorators]
@dag(
    schedule="@monthly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def taskflow_fan_out() -> None:
    @task
    def packages() -> dict[str, str]:
        folders = sorted(Path(sysconfig.get_path("stdlib")).iterdir())
        return {
            folder.name: str(folder)
            for folder in folders
            if folder.name != "test"  # Python's own tests have files that nothing can read, on purpose
            and (folder / "__init__.py").is_file()
            and len(list(folder.glob("*.py"))) >= FEWEST_MODULES
        }

    @fan_out(max_concurrency=8, retries=1)
    def survey(folder: str, private: bool) -> dict[str, Any]:
        found = [documented for _, documented in definitions(folder, private=private)]
        return {"folder": folder, "definitions": len(found), "documented": sum(found)}

    @fan_in(min_success_ratio=0.9)
    def least_documented(results: FanInResults, number: int) -> dict[str, str]:
        share = {
            package: found["documented"] / found["definitions"]
            for package, found in results.items()
            if found["definitions"]
        }
        return {
            package: results[package]["folder"] for package in sorted(share, key=share.__getitem__)[:number]
        }

    @fan_out
    def look_closer(folder: str) -> list[str]:
        return [name for name, documented in definitions(folder, private=False) if not documented]

    @fan_in
    def to_do(results: FanInResults) -> dict[str, list[str]]:
        return dict(results)

    surveys = survey.partial(private=False).expand(folder=packages())
    to_do(look_closer.expand(folder=least_documented(surveys, number=3)))


taskflow_fan_out()
# [END howto_decorators]
