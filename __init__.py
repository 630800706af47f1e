"""penstock: stateful stream processing for Python."""
