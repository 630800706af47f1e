"""Who decides: execution graph, scheduling, checkpoints, commits, restarts."""
