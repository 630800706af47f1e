"""From a Deploy message to a task: unpickled operators, input gate or source, writers, and what operators are given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..runtime import logs
from ..runtime.calls import MakeCalls
from ..runtime.clock import Clock
from ..runtime.configuration import options
from ..runtime.configuration.config import Configuration
from ..runtime.metrics import MetricGroup
from ..runtime.model_workers import ModelSpec, Told, Workers
from ..runtime.operator_state import OperatorState
from ..runtime.operators.operator import Operator, OperatorContext, RestoredState
from ..runtime.operators.source import SourceOperator
from ..state.backend import KeyedStateBackend
from ..state.backend_factory import create_keyed_backend
from ..state.ids import CheckpointId, OperatorId, SlotId
from ..state.key_groups import KeyGroupRange
from ..state.rows.cell_weight import CacheShares
from ..state.savepoints.savepoint_store import SavepointUploads, StatePlace
from ..state.serialization import pickling
from ..state.store.checkpoint_store import CheckpointStore, Uploads
from ..state.store.downloads import Downloads
from ..state.store.local_copies import LocalCopies
from ..state.store.packing import SubtaskUploads
from .chain import OperatorChain
from .exchange.alignment import BarrierAligner
from .exchange.gate import InputChannel, InputGate
from .exchange.partitioners import connected, partitioner_for
from .exchange.transport import Transport
from .exchange.writers import OutputChannel, OutputOptions, RecordWriter, Writers
from .executor import Executor
from .in_flight import Place, may_overtake
from .messages import ChannelId, Deploy, FromSlot, ReportWatermark, SplitRequest, SubtaskId
from .processes.memory_budget import backend_options
from .slices import MAX_COLUMNAR_ROWS, MAX_ROWS
from .snapshotting import fetch_restored
from .source_input import SourceInput
from .task import Task, log_context
from .thread_workers import thread_workers
from .user_calls import user_calls

RESTORED = "restored"
"""Where fetched state lies until it is opened."""
FLUSH_BYTES = 256 * 1024
"""Batches below this are gathered per channel until the buffer timeout: a small batch costs as much as a large one."""


MakeSlotWorkers = Callable[[Callable[[Callable[[], None]], None], logs.TaskContext, ModelSpec, Told], Workers]
"""(post, what the model logs on, what each worker is, who is told)"""


@dataclass(frozen=True, slots=True)
class SlotServices:
    """What a slot is handed: everything that touches the world (DESIGN 4)."""

    clock: Clock
    transport: Transport
    executor: Executor
    send: Callable[[FromSlot], None]
    """To the job's current master. Never blocks."""
    post: Callable[[Callable[[], None]], None]
    """Thread-safe: runs a function on the slot's thread, between two steps."""
    new_name: Callable[[], str]
    work_directory: Path
    copies: LocalCopies | None = None
    """Of the job's state, on this machine."""
    calls: Callable[[Callable[[Callable[[], None]], None], logs.TaskContext], MakeCalls] = lambda post, context: (
        partial(user_calls, post, context)
    )
    """Makes calls of users' functions that run elsewhere, and are answered through `post`."""
    workers: MakeSlotWorkers = thread_workers
    """Makes pools of workers with a model each, likewise."""
    shares: CacheShares = field(default_factory=CacheShares)
    """Of the memory for cells of keyed state."""


def deploy_task(deploy: Deploy, slot: SlotId, services: SlotServices) -> Task:
    """Build the task and begin to fetch its state; it answers Initialized or Failed by itself."""
    return _Deployment(deploy, slot, services).task


class _Deployment:
    def __init__(self, deploy: Deploy, slot: SlotId, services: SlotServices) -> None:
        self.deploy, self.slot, self.services = deploy, slot, services
        self.config = Configuration.from_dict(deploy.config)
        self.store = CheckpointStore(deploy.job_id, services.new_name)
        self.subtask = SubtaskId(deploy.vertex.id, deploy.index)
        self.directory = services.work_directory / f"{deploy.attempt}-{deploy.vertex.id}-{deploy.index}"
        operators: list[Operator] = [pickling.loads(op.pickled) for op in deploy.vertex.operators]
        writers = Writers(self._writers(), services.clock.monotonic_ns)
        self.chain = OperatorChain(
            deploy.vertex.operators,
            operators,
            writers,
            services.clock.monotonic_ns,
            self.config.get(options.ENCODE_EVERY_EDGE),
        )
        self.sources: list[SlotId] = []
        """Slots of the input channels."""
        self.input = self._input(operators[0])
        self.uploads = SubtaskUploads(self._uploads)
        self.copies = services.copies if self.config.get(options.LOCAL_RECOVERY) else None
        downloads = Downloads(self.copies, deploy.reusable_checkpoint)
        self.task = Task(
            deploy, self.chain, self.input, writers, self._open, services.clock, services.executor, services.send,
            self.directory, frozenset([*self.sources, *(channel.target for channel in writers.channels)]), self.uploads,
            downloads,
        )  # fmt: skip
        self.task.initialize(fetch_restored(deploy.restore, deploy.in_flight, downloads, self.directory / RESTORED))

    def _uploads(self, checkpoint: CheckpointId) -> Uploads:
        attempt, savepoint = self.task.attempt_of(checkpoint), self.task.checkpoints.savepoint_of(checkpoint)
        if savepoint is None:
            return self.store.uploads(attempt, checkpoint, self.copies)
        return SavepointUploads(savepoint.path, self.deploy.job_id, attempt, checkpoint, self.services.new_name)

    # channels

    def _writers(self) -> dict[tuple[int, str | None], list[RecordWriter]]:
        writers: dict[tuple[int, str | None], list[RecordWriter]] = {}
        output = OutputOptions(
            flush_bytes=FLUSH_BYTES,
            flush_after_ns=self.config.get(options.BUFFER_TIMEOUT) * 1_000_000,
            window_bytes=self.config.get(options.CHANNEL_WINDOW),
            drain_ns=self.config.get(options.DRAIN_TARGET) * 1_000_000,
            encode_every_edge=self.config.get(options.ENCODE_EVERY_EDGE),
        )
        deploy, services = self.deploy, self.services
        own = deploy.vertex.parallelism
        for edge in deploy.outputs:
            targets = deploy.target_parallelism[edge.edge]
            sender = deploy.vertex.operators[edge.operator].id
            partitioner = partitioner_for(
                edge.partitioning, deploy.index, own, targets, deploy.target_max_parallelism[edge.edge]
            )
            channels = {
                target: OutputChannel(
                    ChannelId(edge.edge, deploy.index, target),
                    edge.targets[target],
                    deploy.attempt,
                    services.transport,
                    output,
                    services.clock.monotonic_ns,
                    Place(sender, edge.name, deploy.index, target) if may_overtake(edge.partitioning) else None,
                )
                for target in connected(edge.partitioning, deploy.index, own, targets)
            }
            writers.setdefault((edge.operator, edge.tag), []).append(RecordWriter(partitioner, channels, edge.name))
        return writers

    def _input(self, head: Operator) -> InputGate | SourceInput:
        if isinstance(head, SourceOperator):
            rows = MAX_COLUMNAR_ROWS if self.chain.columnar else MAX_ROWS
            interval_ms = self.config.get(options.LATENCY_INTERVAL)
            source = SourceInput(head, self.services.clock, rows, interval_ms)
            source.sides = self.chain.outputs[0]
            head.wake = lambda: self.services.post(source.wake)
            return source
        window = self.config.get(options.CHANNEL_WINDOW)
        channels, slots = [], {}
        for edge in self.deploy.inputs:
            sources = len(edge.sources)
            for source_index, source_slot in enumerate(edge.sources):
                if self.deploy.index in connected(
                    edge.partitioning, source_index, sources, self.deploy.vertex.parallelism
                ):
                    channel = ChannelId(edge.edge, source_index, self.deploy.index)
                    place = Place(edge.sender, edge.name, source_index, self.deploy.index, received=True)
                    known = place if may_overtake(edge.partitioning) else None
                    channels.append(InputChannel(channel, edge.input_index, window, known))
                    slots[channel] = source_slot
                    self.sources.append(source_slot)
        attempt, transport = self.deploy.attempt, self.services.transport
        return InputGate(
            channels,
            self.services.clock,
            lambda channel, nbytes: transport.grant(slots[channel], attempt, channel, nbytes),
            BarrierAligner(len(channels)),
        )

    # operators

    def _open(self, restored: dict[OperatorId, RestoredState]) -> None:
        states = [restored.get(op.id, RestoredState()) for op in self.deploy.vertex.operators]
        self.chain.open(lambda index: self._context(index, states[index]), states)
        shutil.rmtree(self.directory / RESTORED, ignore_errors=True)  # or it would hold every file to the end

    def _context(self, index: int, restored: RestoredState) -> OperatorContext:
        deploy, services = self.deploy, self.services
        described = deploy.vertex.operators[index]
        source = self.input if index == 0 and isinstance(self.input, SourceInput) else None
        return OperatorContext(
            operator_id=described.id,
            operator_name=described.name,
            task_name=deploy.vertex.name,
            subtask=deploy.index,
            parallelism=deploy.vertex.parallelism,
            max_parallelism=deploy.vertex.max_parallelism,
            attempt=deploy.attempt,
            output=source or self.chain.outputs[index],
            clock=services.clock,
            metrics=MetricGroup(services.clock),
            keyed_backend=partial(self._keyed_backend, index, restored),
            new_name=services.new_name,
            work_directory=self.directory,
            uploads=self.uploads.of,
            operator_state=OperatorState(
                described.name,
                deploy.index,
                restored.lists,
                self.uploads.of,
                is_restored=restored.found,
                generic_types=self.config.get(options.GENERIC_TYPES),
            ),
            job_id=deploy.job_id,
            job_name=deploy.job_name,
            job_parameters=self.config.get(options.JOB_PARAMETERS),
            calls=services.calls(services.post, log_context(deploy)),
            workers=partial(services.workers, services.post, log_context(deploy)),
            buffer_timeout_ms=self.config.get(options.BUFFER_TIMEOUT),
            request_input=lambda: services.send(SplitRequest(deploy.attempt, self.subtask, described.id)),
            report_watermark=lambda group, watermark: services.send(
                ReportWatermark(deploy.attempt, self.subtask, group, watermark)
            ),
            auto_watermark_interval_ms=self.config.get(options.WATERMARK_INTERVAL),
        )

    def _keyed_backend(self, index: int, restored: RestoredState) -> KeyedStateBackend:
        deploy, services = self.deploy, self.services
        described = deploy.vertex.operators[index]
        return create_keyed_backend(
            self.config.get(options.STATE_BACKEND),
            operator_name=described.name,
            key_groups=KeyGroupRange.of_subtask(deploy.index, deploy.vertex.parallelism, deploy.vertex.max_parallelism),
            max_parallelism=deploy.vertex.max_parallelism,
            directory=self.directory / f"state-{index}",
            uploads=self.uploads.of,
            now_ms=services.clock.now_ms,
            restored=restored.keyed,
            reuse_files=deploy.reusable_checkpoint is not None,
            options=backend_options(self.config, services.shares),
            place=StatePlace(described.id, deploy.index),
        )
