"""What lies in the object store: names, documents, the job's log, checkpoints, and what becomes garbage."""
