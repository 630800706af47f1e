"""How it is proven: test sources and sinks, operator harness, cluster simulator, checkers."""
