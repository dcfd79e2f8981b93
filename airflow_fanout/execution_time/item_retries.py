"""What becomes of an item of a batch that has failed: another try, and when, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.execution_time.batch import Verdict
from airflow_fanout.execution_time.recording import redacted_error
from airflow_fanout.rules.wording import format_seconds, on_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


LOGGED = 5
"""Tries that are announced in the log; the progress lines say how many there are."""


class ItemRetries:
    """
    Judges an item that has failed.

    :param labels: Names of the items.
    :param most: Number of tries after the first, in one try of the task.
    :param delay: Seconds before the next try, by the item's name and the number of the try that failed.
    :param policy: Airflow's ``retry_policy`` (3.3), asked with the item's own exception; None for none. One
        that raises decides nothing, as in Airflow.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        most: int,
        delay: Callable[[str, int], float],
        policy: Any,
        context: Any,
        log: Any,
    ) -> None:
        self._labels, self._most, self._delay = labels, most, delay
        self._policy, self._context, self._log = policy, context, log
        self._announced = 0

    def __call__(self, index: int, exception: BaseException, tries: int) -> Verdict:
        """Judge an item by its exception and the number of its tries in this try of the task."""
        action, delay = self._ask(exception, tries)
        if action == "FAIL":
            return Verdict(is_final=True)
        if tries > self._most:
            return Verdict()
        if delay is None:
            delay = self._delay(self._labels[index], tries)
        self._announce(index, exception, tries, delay)
        return Verdict(delay=delay)

    def _ask(self, exception: BaseException, tries: int) -> tuple[str, float | None]:
        """Ask the policy: the name of what is to be done, and after how many seconds if it says so."""
        if self._policy is None:
            return "DEFAULT", None
        try:
            decision = self._policy.evaluate(
                exception=exception, try_number=tries, max_tries=self._most, context=self._context
            )
            is_delayed = decision.action.name in {"RETRY", "RESCHEDULE"} and decision.retry_delay is not None
            return decision.action.name, decision.retry_delay.total_seconds() if is_delayed else None
        except Exception:
            self._log.exception("The retry policy failed, the item is tried again as without it")
            return "DEFAULT", None

    def _announce(self, index: int, exception: BaseException, tries: int, delay: float) -> None:
        self._announced += 1
        if self._announced <= LOGGED:
            name, error = on_one_line(self._labels[index]), redacted_error(exception)
            after = format_seconds(delay)
            self._log.warning("%s failed in try %s, the next comes after %s: %s", name, tries, after, error)
