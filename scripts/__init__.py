"""What the Makefile runs: installing, the demo, the user interface, Airflow on this machine."""
