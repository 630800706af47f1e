"""How records get from subtask to subtask: partitioners, credit, frames, sockets, gates."""
