"""What a subtask says of itself once a second. Nothing of it is counted for this: it is looked up."""

from __future__ import annotations

from ..runtime.batch import NO_TIMESTAMP
from ..runtime.elements import MIN_WATERMARK
from ..state.store.downloads import RestoredBytes
from .chain import OperatorChain
from .exchange.gate import InputGate
from .exchange.input_counts import InputCounts
from .exchange.writers import Writers
from .messages import Deploy, SubtaskId, TaskReport
from .source_input import SourceInput
from .views import SubtaskDetails


def operator_counters(chain: OperatorChain) -> dict[str, int]:
    """'<operator name>.<metric>' -> value: of the operators and of user code."""
    counters: dict[str, int] = {}
    for described, operator in zip(chain.described, chain.operators, strict=True):
        context = getattr(operator, "context", None)
        if context is not None:
            values = context.metrics.values()
            counters.update({f"{described.name}.{name}": int(value) for name, value in values.items()})
    return counters


def subtask_details(
    chain: OperatorChain,
    source: InputGate | SourceInput,
    writers: Writers,
    read: InputCounts,
    record_latency_ms: int | None,
    restored: RestoredBytes,
) -> SubtaskDetails:
    """Of one that is open."""
    lag_records, timestamp = None, NO_TIMESTAMP
    if isinstance(source, SourceInput):
        lag_records, timestamp = source.operator.lag_records(), source.operator.last_timestamp
    states = {
        str(described.id): statistics
        for described, operator in zip(chain.described, chain.operators, strict=True)
        if (statistics := operator.state_statistics()) is not None
    }
    return SubtaskDetails(
        batches_in=read.batches,
        credits_available_bytes=writers.credits_available_bytes,
        queued_in_bytes=source.queued_bytes if isinstance(source, InputGate) else 0,
        queued_out_bytes=writers.queued_bytes,
        record_latency_ms=record_latency_ms,
        source_lag_records=lag_records,
        source_timestamp=None if timestamp == NO_TIMESTAMP else timestamp,
        states=states,
        restored=restored,
        hottest_key_groups=read.hottest(),
    )


def restore_report(deploy: Deploy, restored: RestoredBytes, at_ns: int) -> TaskReport:
    """Of one that is not open yet: how far it is with its state."""
    subtask = SubtaskId(deploy.vertex.id, deploy.index)
    details = SubtaskDetails(restored=restored)
    watermark = restored_watermark(deploy)
    return TaskReport(deploy.attempt, subtask, 0, 0, 0, 0, watermark, 0.0, 0.0, 0.0, at_ns=at_ns, details=details)


def restored_watermark(deploy: Deploy) -> int:
    """The watermark the vertex's head had, for reports until the first one arrives."""
    head = deploy.vertex.operators[0].id
    marks = [s.watermark for op in deploy.restore if op.operator_id == head for s in op.snapshots]
    return min(marks, default=MIN_WATERMARK)
