"""The job manager of a cluster: its jobs, their masters, and what REST asks of them."""
