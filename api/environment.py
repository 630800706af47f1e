"""StreamExecutionEnvironment: where a pipeline starts, is configured and is run.

Configuration comes in layers: what the script sets here beats the flags of `penstock run`, which beat environment
variables, which beat penstock.yaml, which beats the defaults (runtime/configuration/options.py lists every option).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.configuration import options
from ..runtime.configuration.config import Configuration, load
from ..runtime.configuration.options import Duration
from ..runtime.graph.chaining import build_job_graph
from ..runtime.graph.describe import describe, plan
from ..runtime.graph.job_graph import JobGraph
from ..runtime.hints import with_options
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import record_type_of
from ..state.errors import PenstockError, PipelineError
from . import session, unexecuted
from .added_code import AddedCode
from .checks import check_connector, check_strategy, guarded_types
from .interruption import interrupted
from .job_options import job_options
from .resources import SlotSharingGroup, register, slot_groups
from .runtime_mode import RuntimeExecutionMode, problems_of_mode, resolved_mode
from .steps import Pipeline, Step, Upstream, freeze, unread, with_upstream
from .streams import DataStream

if TYPE_CHECKING:
    from ..connectors.formats.base import Format
    from ..runtime.connector import Source
    from ..runtime.event_time.watermarks import WatermarkStrategy
    from .job_client import JobResult
    from .targets import Job

DEFAULT_JOB_NAME = "penstock job"


class StreamExecutionEnvironment:
    """A pipeline under construction, and its configuration (Flink's class of that name)."""

    def __init__(self, configuration: Configuration | None = None) -> None:
        """`configuration`: set by the script, so it beats flags, environment variables and penstock.yaml."""
        self.pipeline = Pipeline()
        self._outside = load(os.environ, Path.cwd(), session.flags)
        self._own = Configuration() if configuration is None else configuration
        self._executed: set[int] = set()
        self._code = AddedCode()
        self._mark = object()

    @staticmethod
    def get_execution_environment(configuration: Configuration | None = None) -> StreamExecutionEnvironment:
        return StreamExecutionEnvironment(configuration)

    # configuration ---------------------------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """All options that are set, whoever set them."""
        return self._outside.merged(self._own)

    def configure(self, configuration: Configuration) -> StreamExecutionEnvironment:
        self._own = self._own.merged(configuration)
        return self

    def set_parallelism(self, parallelism: int) -> StreamExecutionEnvironment:
        self._own.set(options.PARALLELISM, parallelism)
        return self

    def get_parallelism(self) -> int:
        return self.configuration.get(options.PARALLELISM)

    def set_max_parallelism(self, max_parallelism: int) -> StreamExecutionEnvironment:
        self._own.set(options.MAX_PARALLELISM, max_parallelism)
        return self

    def get_max_parallelism(self) -> int:
        return self.configuration.get(options.MAX_PARALLELISM)

    @with_options
    def enable_checkpointing(
        self,
        interval: Duration,
        mode: str | None = None,
        *,
        storage: str | os.PathLike[str] | None = None,
        timeout: Duration | None = None,
        min_pause: Duration | None = None,
        max_concurrent: int | None = None,
        tolerable_failures: int | None = None,
        retained: int | None = None,
        unaligned: bool | None = None,
        aligned_timeout: Duration | None = None,
    ) -> StreamExecutionEnvironment:
        """Take a checkpoint every `interval`, in the directory `storage`. mode: 'exactly-once' or 'at-least-once'.

        unaligned: barriers may overtake records that wait, `aligned_timeout` after their trigger."""
        self._own.set(options.CHECKPOINT_INTERVAL, interval)
        given: list[tuple[options.Option[Any], Any]] = [
            (options.CHECKPOINT_MODE, mode),
            (options.CHECKPOINTS_DIR, None if storage is None else os.fspath(storage)),
            (options.CHECKPOINT_TIMEOUT, timeout),
            (options.CHECKPOINT_MIN_PAUSE, min_pause),
            (options.MAX_CONCURRENT_CHECKPOINTS, max_concurrent),
            (options.TOLERABLE_FAILED_CHECKPOINTS, tolerable_failures),
            (options.RETAINED_CHECKPOINTS, retained),
            (options.UNALIGNED, unaligned),
            (options.ALIGNED_TIMEOUT, aligned_timeout),
        ]
        for option, value in given:
            if value is not None:
                self._own.set(option, value)
        return self

    def disable_checkpointing(self) -> StreamExecutionEnvironment:
        self._own.set(options.CHECKPOINT_INTERVAL, 0)
        return self

    def set_restart_strategy(self, strategy: str, **settings: Any) -> StreamExecutionEnvironment:
        """'none', 'fixed-delay' (attempts, delay), 'exponential-delay' (initial_backoff, max_backoff, …) or
        'failure-rate' (max_failures_per_interval, failure_rate_interval, delay)."""
        self._own.set(options.RESTART_STRATEGY, strategy)
        name = self._own.get(options.RESTART_STRATEGY)
        for setting, value in settings.items():
            self._own.set(f"restart-strategy.{name}.{setting.replace('_', '-')}", value)
        return self

    def set_runtime_mode(self, mode: RuntimeExecutionMode | str) -> StreamExecutionEnvironment:
        """STREAMING (the default), BATCH (only final results; every source has an end), or AUTOMATIC (batch if so)."""
        self._own.set(options.RUNTIME_MODE, mode.value if isinstance(mode, RuntimeExecutionMode) else mode)
        return self

    def set_state_backend(self, backend: str) -> StreamExecutionEnvironment:
        """'rocksdb' or 'heap'."""
        self._own.set(options.STATE_BACKEND, backend)
        return self

    def set_buffer_timeout(self, timeout: Duration) -> StreamExecutionEnvironment:
        self._own.set(options.BUFFER_TIMEOUT, timeout)
        return self

    # code ------------------------------------------------------------------------------------------------------

    def add_python_file(self, path: str | Path) -> StreamExecutionEnvironment:
        """A module, a directory that modules are imported from, or a .zip or .whl archive: the job's functions can
        import from it wherever they run, and this script from here on. PipelineError."""
        self._code.add_file(path)
        return self

    def add_python_archive(self, path: str | Path, target_dir: str | None = None) -> StreamExecutionEnvironment:
        """A .zip or .tar.gz archive of data, models, whatever functions read: they find it unpacked in the directory
        `target_dir` of their working directory (`open("target_dir/…")`); without one it has the archive's name. What
        is unpacked is for reading: subtasks share it. PipelineError, UserCodeInstallError."""
        self._code.add_archive(path, target_dir)
        return self

    def set_python_requirements(self, path: str | Path) -> StreamExecutionEnvironment:
        """A requirements.txt: its packages are installed for the job on a cluster. PipelineError: it is not there."""
        self._code.set_requirements(path)
        return self

    def register_slot_sharing_group(self, slot_sharing_group: SlotSharingGroup) -> StreamExecutionEnvironment:
        """Operators that name the group run in slots with its resources. PipelineError: it was given others before."""
        register(self.pipeline, slot_sharing_group)
        return self

    def disable_operator_chaining(self) -> StreamExecutionEnvironment:
        self._own.set(options.CHAINING, False)
        return self

    # sources ---------------------------------------------------------------------------------------------------

    def from_source(
        self,
        source: Source[Any],
        watermark_strategy: WatermarkStrategy | None = None,
        name: str | None = None,
        *,
        uid: str | None = None,
        output_type: Any = None,
    ) -> DataStream:
        """The records of a connector. Without a strategy there are no watermarks before the end of input.
        PipelineError: what is given is no source."""
        from ..runtime.connector import Source
        from ..runtime.event_time.watermarks import WatermarkStrategy
        from ..runtime.operators.source import SourceOperator

        check_connector(source, Source, "from_source takes a source first, like FileSource(path, Json())")
        strategy = WatermarkStrategy.no_watermarks() if watermark_strategy is None else watermark_strategy
        record_type = source.record_type if output_type is None else record_type_of(output_type)

        def make() -> Operator:
            check_strategy(strategy, record_type, of_source=True, timed=source.gives_timestamps)
            return SourceOperator(source, strategy, record_type)

        step = self.pipeline.add("source", make, (), name=name, source=source)
        step.uid = uid
        step.tag_types |= guarded_types(strategy, record_type)
        if len(self.pipeline.steps) == 1:
            unexecuted.begun(self._mark)
        return DataStream(self, [Upstream(step)], step.output_type, step)

    def from_collection(
        self,
        collection: Iterable[Any],
        type: Any = None,  # PyFlink's third argument is called type_info; ours is the annotation
        *,
        name: str | None = None,
        watermark_strategy: WatermarkStrategy | None = None,
    ) -> DataStream:
        """A bounded stream of values at hand, read by one subtask. Their type is `type`, or that of the values."""
        from ..connectors.collections import CollectionSource

        source = CollectionSource(collection, type)
        name = name or self.pipeline.free_name("collection")
        return self.from_source(source, watermark_strategy, name).set_parallelism(1)

    def from_sequence(self, start: int, end: int, *, name: str | None = None) -> DataStream:
        """The integers from start to end, both included."""
        from ..connectors.collections import SequenceSource

        return self.from_source(SequenceSource(start, end), None, name or self.pipeline.free_name("sequence"))

    def read_files(
        self,
        path: str | os.PathLike[str],
        format: Format,
        watermark_strategy: WatermarkStrategy | None = None,
        *,
        name: str | None = None,
        **settings: Any,
    ) -> DataStream:
        """A file, a directory or a glob; settings as in FileSource(…)."""
        from ..connectors.files import FileSource

        return self.from_source(FileSource(path, format, **settings), watermark_strategy, name)

    # the plan --------------------------------------------------------------------------------------------------

    def job_graph(self, job_name: str | None = None, steps: Sequence[Step] | None = None) -> JobGraph:
        """What execute() would run. Raises one PipelineError that names everything that is wrong."""
        unexecuted.used(self._mark)
        config = self.configuration
        name = job_name or config.get(options.JOB_NAME) or DEFAULT_JOB_NAME
        chosen = self._pending() if steps is None else with_upstream(steps)
        if not chosen:
            raise PipelineError("there is nothing to execute: the pipeline has no operators")
        groups, mode = slot_groups(chosen, self.pipeline.groups), resolved_mode(chosen, config)
        parallelism = config.get(options.PARALLELISM), config.get(options.MAX_PARALLELISM)
        transformations = freeze(chosen, *parallelism, groups, batch_mode=mode == "batch")
        own = Configuration({**job_options(config), options.RUNTIME_MODE.key: mode})
        problems = [*self.pipeline.problems_in(chosen), *groups.problems, *problems_of_mode(chosen, mode)]
        return build_job_graph(transformations, own, name, problems)

    def describe(self, steps: Sequence[Step] | None = None) -> str:
        """How the pipeline will run: tasks, chains, types, and what would make it faster."""
        return describe(self.job_graph(steps=steps))

    def get_execution_plan(self) -> str:
        """The same as JSON."""
        import json

        return json.dumps(plan(self.job_graph()), indent=2)

    def _pending(self) -> list[Step]:
        """Steps that no execute() has run yet, with all they read."""
        return with_upstream([step for step in self.pipeline.steps if step.id not in self._executed])

    # running ---------------------------------------------------------------------------------------------------

    def execute(self, job_name: str | None = None) -> JobResult:
        """Run the pipeline to its end. Raises JobFailedError, whose cause is what the user's function raised, and
        KeyboardInterrupt if the job was stopped or cancelled."""
        try:
            return self.submit(job_name).run()
        except PenstockError as error:
            raise error.with_traceback(None)  # noqa: B904 (the way it took in here tells the user nothing)
        except KeyboardInterrupt as error:
            raise interrupted(error).with_traceback(None) from None

    def execute_async(self, job_name: str | None = None) -> Job:
        """Start the pipeline in the background, or on a cluster, and give a handle of it."""
        return self.submit(job_name).start()

    def submit(self, job_name: str | None = None) -> Job:
        """A handle of the job, which in this process is not run yet. What is added to the pipeline from now on is
        another job."""
        from .targets import bound_to_this_process, start_job

        graph, config = self.job_graph(job_name), self.configuration
        if names := unread(self._pending()):
            session.say(f"warning: nothing reads the results of {names}: call sink_to(…) or print() to see them")
        if session.capturing is not None:
            session.capturing(graph, config, self._code, self._pending())
        job = start_job(graph, config, bound_to_this_process(self._pending()), self._code)
        self._executed.update(step.id for step in self.pipeline.steps)
        return job

    def is_bounded(self) -> bool:
        """Whether every source of what execute() would run has an end."""
        return all(step.source is None or step.source.bounded for step in self._pending())


def get_execution_environment(configuration: Configuration | None = None) -> StreamExecutionEnvironment:
    return StreamExecutionEnvironment(configuration)
