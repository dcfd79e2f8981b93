"""The commands ``airflow fanout …``."""
