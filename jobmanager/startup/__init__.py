"""How a cluster comes up and stays up: Ray, the dispatcher, further nodes, and who watches whom."""
