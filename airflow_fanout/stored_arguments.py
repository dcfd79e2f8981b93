"""Bound arguments of a mapped task, which Airflow has to store alike at every parse; made at parse time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.param import DagParam
from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ParamArgument", "storable"]


class ParamArgument(ResolveMixin):
    """
    A Dag param among the arguments of a mapped task.

    Airflow stores these as texts, and that of a ``DagParam`` holds its address, so that each parse would make
    a new version of the Dag.

    :param param: The Dag param.
    """

    def __init__(self, param: DagParam) -> None:
        self.param = param

    def __repr__(self) -> str:
        """Return the same text in every process."""
        return f"DagParam({self.param._name!r})"  # noqa: SLF001 - there is no public way

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """Yield nothing: it comes from no task."""
        return iter(())

    def resolve(self, context: Any) -> Any:
        """Return what was chosen for this run."""
        return self.param.resolve(context)


def storable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make arguments of a mapped task such that Airflow stores the same at every parse."""
    return {
        name: ParamArgument(value) if isinstance(value, DagParam) else value
        for name, value in arguments.items()
    }
