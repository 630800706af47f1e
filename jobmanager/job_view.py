"""The job master's job, as it is seen from outside: assembled from its parts when somebody asks, at no cost before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..connectors.collect import COLLECT
from ..runtime.configuration import options
from ..runtime.configuration.masking import masked
from ..runtime.graph.job_graph import Edge, Vertex
from ..state.ids import SlotId
from ..state.store.cluster_store import JobSubmission
from ..taskmanager.messages import SlotAddress, SubtaskId
from .events import JobStatus
from .exception_history import exception_view
from .failures import Failures
from .history import Timeline
from .job_states import JobState
from .parts import Parts
from .restarts import describe_strategy
from .views import (
    NEVER,
    CheckpointConfigView,
    CheckpointsView,
    EdgeView,
    JobOverview,
    JobView,
    OperatorView,
    SubtaskView,
    VertexView,
    vertex_hex,
)

Addresses = Mapping[SlotId, SlotAddress]


class JobObserver:
    """What is remembered of a job only to be shown, and the views. Decides nothing."""

    def __init__(self, parts: Parts, failures: Failures) -> None:
        self._parts = parts
        self._failures = failures
        self.timeline = Timeline()

    def overview(self, state: JobState) -> JobOverview:
        parts, graph = self._parts, self._parts.graph
        entered = self.timeline.entered()
        started_ms = parts.options.submitted_at_ms
        states = Counter(graph.state(subtask).value for subtask in graph.subtasks)
        return JobOverview(
            id=parts.job_id,
            name=graph.job_graph.job_name,
            state=state.value,
            started_ms=min(entered.values(), default=NEVER) if started_ms is None else started_ms,
            ended_ms=self.timeline.changed_ms if state.is_terminal else NEVER,
            modified_ms=self.timeline.changed_ms,
            bounded=parts.sources.bounded,
            subtask_states=dict(states),
            parallelism=max((vertex.parallelism for vertex in graph.job_graph.vertices), default=1),
            batch_mode=graph.job_graph.batch_mode,
        )

    def view(self, state: JobState, now_ms: int) -> JobView:
        parts, job_graph = self._parts, self._parts.graph.job_graph
        addresses = parts.pool.addresses
        return JobView(
            overview=self.overview(state),
            attempt=parts.graph.attempt,
            generation=parts.orders.generation,
            restarts=self._failures.restarts,
            max_parallelism=max((vertex.max_parallelism for vertex in job_graph.vertices), default=NEVER),
            timestamps=self.timeline.entered(),
            vertices=tuple(self._vertex(vertex, addresses) for vertex in job_graph.vertices),
            edges=tuple(_edge_view(edge) for edge in job_graph.edges),
            checkpoints=parts.checkpointing.statistics.view(now_ms),
            checkpoint_config=self._checkpoint_config(),
            exceptions=self._failures.exceptions.view(),
            config=masked(job_graph.config),
            restart_strategy=describe_strategy(parts.options.restarts),
            warnings=job_graph.warnings,
            collected=tuple(op.name for v in job_graph.vertices for op in v.operators if op.kind == COLLECT),
            savepoints=parts.checkpointing.savepoints.operations(),
            requested_checkpoints=parts.checkpointing.on_request.operations(),
            as_of_ms=now_ms,
            objects=parts.reports.objects(),
        )

    def status(self, state: JobState) -> JobStatus:
        """What the client of a job in its own process looks at, several times a second."""
        parts, failures = self._parts, self._failures
        subtask = failures.last_subtask
        return JobStatus(
            job_id=parts.job_id,
            job_name=parts.graph.job_graph.job_name,
            state=state,
            attempt=parts.graph.attempt,
            restarts=failures.restarts,
            vertices=parts.reports.vertices(parts.graph),
            checkpoints=parts.checkpointing.status(),
            last_failure=failures.last,
            failed_operator=subtask.operator if subtask else None,
            failure_traceback=subtask.traceback if subtask else None,
            restart_delay_ms=failures.last_delay_ms,
        )

    def _vertex(self, vertex: Vertex, addresses: Addresses) -> VertexView:
        return VertexView(
            id=vertex_hex(vertex.id),
            name=vertex.name,
            parallelism=vertex.parallelism,
            max_parallelism=vertex.max_parallelism,
            slot_sharing_group=vertex.slot_sharing_group,
            operators=tuple(
                OperatorView(each.id, each.name, each.uid, each.kind, each.face, each.output_type)
                for each in vertex.operators
            ),
            subtasks=tuple(self._subtask(SubtaskId(vertex.id, i), addresses) for i in range(vertex.parallelism)),
            is_source=any(each.is_source for each in vertex.operators),
            resources=vertex.resources.amounts(),
        )

    def _subtask(self, subtask: SubtaskId, addresses: Addresses) -> SubtaskView:
        graph = self._parts.graph
        slot = graph.slot_or_none(subtask)
        address = None if slot is None else addresses.get(slot)
        return SubtaskView(
            index=subtask.index,
            state=graph.state(subtask).value,
            attempt=graph.attempt_of(subtask),
            timestamps=graph.timeline(subtask).entered(),
            metrics=self._parts.reports.metrics(subtask),
            slot=slot or "",
            task_manager=address.task_manager if address else "",
            endpoint=f"{address.host}:{address.port}" if address else "",
        )

    def _checkpoint_config(self) -> CheckpointConfigView | None:
        checkpoints, config = self._parts.options.checkpoints, self._parts.graph.job_graph.config
        if checkpoints is None:
            return None
        tolerated = checkpoints.tolerable_failures
        return CheckpointConfigView(
            interval_ms=checkpoints.interval_ms,
            timeout_ms=checkpoints.timeout_ms,
            min_pause_ms=checkpoints.min_pause_ms,
            max_concurrent=checkpoints.max_concurrent,
            exactly_once=checkpoints.exactly_once,
            tolerable_failures=-1 if tolerated is None else tolerated,
            retained_on_cancel=checkpoints.retain_on_cancel,
            state_backend=config.get(options.STATE_BACKEND.key, options.STATE_BACKEND.default or ""),
            storage=self._parts.options.storage,
            unaligned_after_ms=checkpoints.unaligned_after_ms,
        )


def failed_view(submission: JobSubmission, error: Exception, now_ms: int) -> JobView:
    """Of a job that no master could be made for: its graph cannot be read, its code cannot be installed."""
    created, failed = JobState.CREATED.value, JobState.FAILED.value
    return JobView(
        overview=JobOverview(
            id=submission.job_id,
            name=submission.job_name,
            state=failed,
            started_ms=submission.created_at_ms,
            ended_ms=now_ms,
            modified_ms=now_ms,
            bounded=False,
            subtask_states={},
        ),
        attempt=0,
        generation=0,
        restarts=0,
        max_parallelism=NEVER,
        timestamps={created: submission.created_at_ms, failed: now_ms},
        vertices=(),
        edges=(),
        checkpoints=CheckpointsView(),
        checkpoint_config=None,
        exceptions=(exception_view(error, now_ms),),
        config=masked(submission.config),
        as_of_ms=now_ms,
    )


def _edge_view(edge: Edge) -> EdgeView:
    """Strategies are called as in Flink: the names of our partitionings, in capitals."""
    strategy = type(edge.partitioning).__name__.upper()
    return EdgeView(vertex_hex(edge.source), vertex_hex(edge.target), strategy, edge.tag)
