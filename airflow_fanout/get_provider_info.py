"""What Airflow discovers about this provider, when any ``airflow`` process starts."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, as Airflow's ``provider_info.schema.json`` has it."""
    # The package-name is the distribution's: spelt with an underscore, every airflow command fails.
    return {
        "package-name": "airflow-fanout",
        "name": "Fan-out",
        "description": "Parallel branches, declared; every one of them accounted for at the fan-in.\n",
        "integrations": [
            {
                "integration-name": "Fan-out",
                "external-doc-url": "https://github.com/airflow-fanout/airflow-fanout",
                "tags": ["software"],
            }
        ],
        "operators": [
            {
                "integration-name": "Fan-out",
                "python-modules": ["airflow_fanout.operators.fan_in"],
            }
        ],
        "task-decorators": [
            {"name": "fan_out", "class-name": "airflow_fanout.decorators.fan_out"},
            {"name": "fan_in", "class-name": "airflow_fanout.decorators.fan_in"},
        ],
        "extra-links": ["airflow_fanout.operators.link.FanOutLink"],
        "plugins": [{"name": "fan_out", "plugin-class": "airflow_fanout.ui.plugin.FanOutPlugin"}],
        "config": {
            "fanout": {
                "description": "Settings of airflow-fanout.\n",
                "options": {
                    "storage_path": {
                        "description": (
                            "Folder below which items are written that can't be cut where they lie, those of "
                            "a query or of a compressed file. All workers have to reach it.\n"
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://connection_id@bucket/fanout",
                        "default": None,
                    }
                },
            }
        },
        "cli": ["airflow_fanout.cli.commands.get_fanout_cli_commands"],
    }
