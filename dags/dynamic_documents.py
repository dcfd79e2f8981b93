"""
### Documents that are found at run time, hundreds of them in a few tasks.

What there is to analyse is known only when the Dag runs: `find_documents` lists the texts that come with the
installed Python distributions (descriptions, READMEs, change logs) as a mapping `{name: path}`. The names go
all the way to the fan-in. A task for each document would cost Airflow more time than the analysis takes;
`items_per_task` makes a batch of a hundred of them a task, so that a run has as many tasks as it has
hundreds. Batches run on as many cores as there are; within one, `item_concurrency` threads wait for files
at the same time, which pays where those come from a network, while counting words takes turns. Both numbers,
and the share of fit documents that `index` asks for, are Dag params: the trigger form has them for each run.

A document never costs its neighbours anything. `top_level.txt` and tables of numbers hold no prose, and skip
themselves: `AirflowSkipException` leaves them out of what the tolerance counts. A description that doesn't
say whether it is Markdown, reStructuredText or plain can't be freed of its markup with certainty, and fails;
looking again won't help, so that `UnfitDocumentError` isn't retried. What might go better the second time, a
file system that doesn't answer, is, and then only the documents concerned run again. `index` asks for eight
fit documents of ten unless told, and reads their analyses one batch at a time, however many there are.

The paths hold wherever the tasks run, if all workers have the same image or the same disk.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from datetime import timedelta
from email import message_from_string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

FEWEST_WORDS = 50
"""Words from which on there is something to analyse."""

MARKUP = {
    "text/markdown": r"```.*?```|<[^>]+>|!?\[[^\]]*\]\([^)]*\)|https?://\S+",
    "text/x-rst": r"^\.\. .*?$|:[\w-]+:`[^`]*`|`[^`]*<[^>]*>`__?|https?://\S+",
    "text/plain": r"https?://\S+",
}
"""What is no prose, for each kind of document."""

LICENCES = ("copying", "licence", "license", "notice")
"""What the names of files begin with that say the same everywhere."""

KINDS = {".md": "text/markdown", ".rst": "text/x-rst", ".txt": "text/plain"}


class UnfitDocumentError(AirflowFailException):
    """Raised when a document can't be analysed, now or later."""


def is_licence(name: str) -> bool:
    return name.casefold().startswith(LICENCES)


def content_of(path: Path, text: str) -> tuple[str | None, str]:
    """Return what a document says and its media type, which metadata declares of the description in it."""
    if path.name != "METADATA":
        return KINDS[path.suffix], text
    metadata = message_from_string(text)
    declared = metadata.get("Description-Content-Type")
    kind = None if declared is None else declared.partition(";")[0].strip().lower()
    return kind, str(metadata.get_payload() or metadata.get("Description", ""))


def words_of(kind: str | None, text: str) -> list[str]:
    """Words of three letters or more, without markup."""
    if kind is None:
        message = "its description doesn't say whether it is Markdown, reStructuredText or plain text"
        raise UnfitDocumentError(message)
    if kind not in MARKUP:
        message = f"expected a document of type {', '.join(MARKUP)}, not {kind}"
        raise UnfitDocumentError(message)
    prose = re.sub(MARKUP[kind], " ", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"[^\W\d_]{3,}", prose.casefold())


# [START howto_batches]
@dag(
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def dynamic_documents(items_per_task: int = 100, item_concurrency: int = 4, fit_share: float = 0.8) -> None:
    @task
    def find_documents() -> dict[str, str]:
        from importlib.metadata import distributions

        return {
            f"{distribution.name}: {file}": str(file.locate())
            for distribution in sorted(distributions(), key=lambda each: each.name.casefold())
            for file in distribution.files or ()
            if (file.suffix in KINDS or file.name == "METADATA") and not is_licence(file.name)
        }

    @task
    def analyse(path: str) -> dict[str, Any]:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UnfitDocumentError(str(error)) from error
        kind, said = content_of(Path(path), text)
        if (number := len(words_of("text/plain", said))) < FEWEST_WORDS:
            message = f"there is nothing to analyse in {number} words"
            raise AirflowSkipException(message)
        words = words_of(kind, said)
        telling = Counter(word for word in words if len(word) >= 5)
        return {"kind": kind, "words": len(words), "frequent": [word for word, _ in telling.most_common(20)]}

    def index_of(results: FanInResults) -> dict[str, Any]:
        documents = words = 0
        kinds: Counter[str] = Counter()
        themes: Counter[str] = Counter()
        longest: list[tuple[int, str]] = []
        for name, found in results.items():  # one batch's analyses are in memory, not all
            documents += 1
            words += found["words"]
            kinds[found["kind"]] += 1
            themes.update(found["frequent"])
            longest = heapq.nlargest(5, [*longest, (found["words"], name)])
        return {
            "documents": documents,
            "words": words,
            "kinds": dict(kinds.most_common()),
            "longest": {name: length for length, name in longest},
            "in_most_documents": dict(themes.most_common(15)),
            "without_prose": len(results.skipped),
            "unfit": len(results.failed),
        }

    documents = FanOutGroup(
        "documents",
        branch=analyse,
        items=find_documents(),
        items_per_task=items_per_task,
        item_concurrency=item_concurrency,
    )
    FanInOperator(task_id="index", fan_out=documents, python_callable=index_of, min_success_ratio=fit_share)


dynamic_documents()
# [END howto_batches]
