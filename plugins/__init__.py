"""Airflow's extension points of this project. `.airflowignore` lists what Airflow must not load as a plugin."""
