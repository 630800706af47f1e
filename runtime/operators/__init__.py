"""What a subtask does with a batch, a watermark and a barrier: one file per kind of operator."""
