"""This package beside the same Dags written by hand in plain Airflow; ``python -m benchmarks``."""
