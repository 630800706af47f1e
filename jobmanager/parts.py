"""The parts of one job master, made once and shared by those who decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..runtime.connector import Sink
from ..runtime.graph.job_graph import JobGraph
from ..state.ids import JobId, OperatorId
from ..state.serialization import pickling
from ..state.store.checkpoint_store import CheckpointStore
from ..state.store.job_log import JobLog
from .checkpointing import Checkpointing
from .commits import Commits
from .execution_graph import ExecutionGraph
from .failover import Failover
from .journal import Journal
from .log_care import LogCare
from .options import JobMasterOptions
from .orders import Orders
from .slot_pool import SlotPool
from .sources import Sources
from .state_queries import StateQueries
from .task_reports import TaskReports
from .watermark_alignment import WatermarkAlignments


@dataclass(frozen=True, slots=True)
class Parts:
    job_id: JobId
    options: JobMasterOptions
    graph: ExecutionGraph
    failover: Failover
    orders: Orders
    log: JobLog
    store: CheckpointStore
    journal: Journal
    pool: SlotPool
    sources: Sources
    sinks: dict[OperatorId, Sink]
    commits: Commits
    checkpointing: Checkpointing
    reports: TaskReports
    queries: StateQueries
    alignments: WatermarkAlignments


def make_parts(job_graph: JobGraph, job_id: JobId, options: JobMasterOptions, new_name: Callable[[], str]) -> Parts:
    """Raises what a connector raises when it is unpickled."""
    graph, log, store = ExecutionGraph(job_graph), JobLog(job_id, new_name), CheckpointStore(job_id, new_name)
    orders, journal = Orders(graph), Journal(log, LogCare(job_id, options.log_kept_ms), new_name)
    failover = Failover(graph, by_region=options.failover_by_region)
    sources, reports = Sources(job_graph, graph, orders), TaskReports()
    names = {operator.id: operator.name for vertex in job_graph.vertices for operator in vertex.operators}
    sinks: dict[OperatorId, Sink] = {
        operator_id: pickling.loads(pickled) for operator_id, pickled in job_graph.pickled_sinks.items()
    }
    committers = {operator_id: (names[operator_id], sink.create_committer()) for operator_id, sink in sinks.items()}
    commits = Commits({i: (name, c) for i, (name, c) in committers.items() if c is not None}, options)
    checkpointing = Checkpointing(job_id, options, graph, orders, store, journal, sources, commits, new_name)
    return Parts(
        job_id, options, graph, failover, orders, log, store, journal, SlotPool(), sources, sinks, commits,
        checkpointing, reports, StateQueries(graph, orders, reports), WatermarkAlignments(graph, orders),
    )  # fmt: skip
