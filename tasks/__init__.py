"""What each Airflow task runs: one module per task, `python -m tasks.NAME`, usable by hand without Airflow."""
