"""The public testing kit: sources and sinks for tests, one operator alone, a cluster whose slots can be killed, a clock
that is set. The simulator is beside it: `python -m penstock.testing.simulation`."""

from .clock import ManualClock
from .cluster import Cluster
from .harness import OperatorHarness, rescaled
from .lists import FAIL, Fail, InjectedFailure, ListSink, ListSource

__all__ = [
    "FAIL",
    "Cluster",
    "Fail",
    "InjectedFailure",
    "ListSink",
    "ListSource",
    "ManualClock",
    "OperatorHarness",
    "rescaled",
]
