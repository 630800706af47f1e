"""What a job is and does: records and batches, elements, time, functions, configuration, job graph, operators."""
