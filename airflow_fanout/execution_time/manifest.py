"""What a fan-in writes beside the files of values that it has counted: ``manifest.json``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import UnwritableResultsError
from airflow_fanout.storage.parts import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.sdk import BaseOperator, Context

    from airflow_fanout.execution_time.results import FanInResults
    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.serialization.declaration import DeclaredFanIn, DeclaredGroup

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"

COUNTS = ("expected", "counted", "needed", "succeeded", "failed", "skipped", "missing", "degraded")
"""What a manifest has of the report."""


class Manifests:
    """
    The manifests of a fan-in, one in each folder of the groups with ``results_path`` that it collects.

    :param task: The fan-in.
    """

    def __init__(
        self, task: BaseOperator, declared: DeclaredFanIn, sources: Sequence[Source], context: Context
    ) -> None:
        self._task, self._context = task, context
        groups = [source.group for source in sources] or [declared.group]
        self._groups = [each for each in groups if each is not None and each.results_path is not None]
        self.is_complete = bool(groups) and len(self._groups) == len(groups)
        """Whether all values are in files."""

    def paths(self, results: FanInResults) -> list[str]:
        """Paths of the manifests, each beside the files that count, or where these would be."""
        folders = [path.rpartition("/")[0] for path in (*results.parts, *results.failed_paths)]
        folders = folders or [self._rendered(group) for group in self._groups]
        return [f"{folder}/{MANIFEST}" for folder in dict.fromkeys(folders)]

    def write(self, results: FanInResults, report: Mapping[str, Any], state: str) -> list[str]:
        """
        Write the manifests, in the place of those of an earlier try, and return their paths.

        :param state: What the fan-in has decided.
        :raises UnwritableResultsError: If the storage refuses, unless the fan-in fails anyway.
        """
        if not self._groups:
            return []
        has_ended_well = state in {"success", "degraded"}
        if not has_ended_well and not results.parts and not results.failed_paths:
            return []
        ti: Any = self._context["ti"]
        formats = {group.results_format for group in self._groups}
        paths = self.paths(results)
        counts: dict[str, Any] = {name: value for name, value in report.items() if name in COUNTS}
        for path in paths:
            folder = path.removesuffix(MANIFEST)
            manifest = {
                "dag_id": ti.dag_id,
                "run_id": ti.run_id,
                "task_id": ti.task_id,
                "state": state,
                **counts,
                "format": ", ".join(sorted(filter(None, formats))),
                "parts": _below(folder, results.parts),
                "failed_files": _below(folder, results.failed_paths),
            }
            try:
                write_json(path, manifest)
            except UnwritableResultsError:
                if has_ended_well:
                    raise
                log.warning("No manifest can be written", exc_info=True)
        return paths

    def _rendered(self, group: DeclaredGroup) -> str:
        raw: Any = group.results_path
        if group.each:
            mapped: Any = self._task.dag.get_task(group.each[-1])
            raw = mapped.partial_kwargs["results_path"]
        return str(self._task.render_template(raw, self._context)).rstrip("/")


def _below(folder: str, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path.startswith(folder)]
