"""The Fan-out tab of Airflow's web UI; in the API server."""
