"""What a user writes and runs: environment, streams, command line."""
