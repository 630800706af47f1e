"""The REST interface: Flink's wire over the views of jobs and processes (app.py)."""
