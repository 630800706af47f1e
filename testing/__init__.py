"""The public testing kit: sources and sinks for tests, one operator alone, a cluster whose slots can be killed, a clock
that is set. The simulator is beside it: `python -m penstock.testing.simulation`."""

from .async_harness import AsyncHarness
from .calls import ManualCalls
from .clock import ManualClock
from .cluster import Cluster
from .harness import OperatorHarness, rescaled
from .lists import FAIL, Fail, InjectedFailure, ListSink, ListSource
from .workers import ManualWorkers

__all__ = [
    "FAIL",
    "AsyncHarness",
    "Cluster",
    "Fail",
    "InjectedFailure",
    "ListSink",
    "ListSource",
    "ManualCalls",
    "ManualClock",
    "ManualWorkers",
    "OperatorHarness",
    "rescaled",
]
