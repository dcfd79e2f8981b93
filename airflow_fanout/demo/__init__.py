"""The demo, on an Airflow of its own."""
