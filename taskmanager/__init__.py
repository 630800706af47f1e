"""Where a job runs: slots, subtasks, channels, credit, alignment."""
