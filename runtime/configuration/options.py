"""Every option, with its type, its default and what it does.

Names are Flink's wherever Flink has the option. `docs` and `penstock config` print this list. Options of Flink that
have no meaning here are accepted and ignored with a note (IGNORED); everything else is refused with the nearest name.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from . import cluster_options, memory_options, state_options
from .option_kinds import BOOL, COUNT, DURATION, FLOAT, INT, MAP, SIZE, TEXT, Duration, Option, one_of

__all__ = ["IGNORED", "OPTIONS", "Duration", "Option"]

# the job -------------------------------------------------------------------------------------------------------

JOB_NAME = Option("pipeline.name", TEXT, None, "Name of the job when execute() is called without one.")
DUPLICATE_NAMES = Option(
    "pipeline.allow-duplicate-names", BOOL, False, "Whether a cluster may run another live job of the same name."
)
PARALLELISM = Option("parallelism.default", COUNT, 1, "Parallelism of operators that do not set their own.")
MAX_PARALLELISM = Option(
    "pipeline.max-parallelism", COUNT, 128,
    "Number of key groups: the highest parallelism a job can ever be restored at. Part of the state; it cannot change.",
)  # fmt: skip
CHAINING = Option(
    "pipeline.operator-chaining.enabled", BOOL, True, "Run neighbouring operators in one task where that is possible.",
    ("pipeline.operator-chaining",),
)  # fmt: skip
GENERIC_TYPES = Option(
    "pipeline.generic-types",
    BOOL,
    True,
    "Allow records and state of unknown type, which are pickled. false refuses them.",
)
JOB_PARAMETERS = Option(
    "pipeline.global-job-parameters", MAP, {}, "name:value,… given to functions by RuntimeContext.get_job_parameter."
)
ENCODE_EVERY_EDGE = Option(
    "pipeline.encode-every-edge", BOOL, False,
    "For tests: encode and decode records between all operators, so that a type that changes a record is found.",
)  # fmt: skip
RUNTIME_MODE = Option(
    "execution.runtime-mode", one_of("streaming", "batch", "automatic"), "streaming",
    "How the job runs. batch: every source has an end, and only final results are given out, at the end; automatic: "
    "batch if every source has an end.",
)  # fmt: skip
BUFFER_TIMEOUT = Option(
    "execution.buffer-timeout.interval", DURATION, 10,
    "How long records may wait for company before a batch is sent to the next task; 0 sends after every slice.",
    ("execution.buffer-timeout",),
)  # fmt: skip

WATERMARK_INTERVAL = Option(
    "pipeline.auto-watermark-interval", DURATION, 200,
    "How often watermark generators of one's own are asked by the clock (on_periodic_emit); 0: never. Those for "
    "bounded out-of-orderness make watermarks after every batch.",
)  # fmt: skip

# checkpoints ---------------------------------------------------------------------------------------------------

LATENCY_INTERVAL = Option(
    "metrics.latency.interval", DURATION, 1_000,
    "Between two latency markers of a source, which measure the way through the pipeline; 0 sends none.",
)  # fmt: skip
CHECKPOINT_INTERVAL = Option(
    "execution.checkpointing.interval", DURATION, 10_000, "Time between two checkpoints; 0 switches them off."
)
CHECKPOINT_MODE = Option(
    "execution.checkpointing.mode", one_of("exactly-once", "at-least-once"), "exactly-once",
    "exactly-once aligns barriers; at-least-once never blocks an input and may repeat records after a failure.",
)  # fmt: skip
CHECKPOINT_TIMEOUT = Option(
    "execution.checkpointing.timeout", DURATION, 600_000, "A checkpoint that takes longer is aborted."
)
COMMIT_TIMEOUT = Option(
    "execution.checkpointing.commit-timeout", DURATION, 600_000,
    "A sink's commit that has not returned after so long counts as failed and is tried again.",
)  # fmt: skip
CANCEL_COMMIT_TIMEOUT = Option(
    "execution.checkpointing.cancel-commit-timeout", DURATION, 30_000,
    "How long a job that is cancelled waits for commits of logged checkpoints; the rest stays recorded in the last.",
)  # fmt: skip
CHECKPOINT_MIN_PAUSE = Option(
    "execution.checkpointing.min-pause", DURATION, 0, "Least time between the end of a checkpoint and the next one."
)
MAX_CONCURRENT_CHECKPOINTS = Option(
    "execution.checkpointing.max-concurrent-checkpoints", COUNT, 1, "How many checkpoints may be under way at once."
)
UNALIGNED = Option(
    "execution.checkpointing.unaligned.enabled", BOOL, True,
    "Barriers may overtake records that wait, which then go into the checkpoint: it completes under backpressure, too. "
    "Only exactly-once, and with one checkpoint at a time.",
    ("execution.checkpointing.unaligned",),
)  # fmt: skip
ALIGNED_TIMEOUT = Option(
    "execution.checkpointing.aligned-checkpoint-timeout", DURATION, 30_000,
    "So long after its trigger a barrier waits to be aligned before it overtakes; 0: not at all.",
)  # fmt: skip
TOLERABLE_FAILED_CHECKPOINTS = Option(
    "execution.checkpointing.tolerable-failed-checkpoints", INT, -1,
    "How many checkpoints in a row may fail; one more fails the attempt. -1: any number.",
)  # fmt: skip
CHECKPOINTS_DIR = Option(
    "state.checkpoints.dir", TEXT, None,
    "Where checkpoints go: a directory or an object store's URL. Without it the cluster's storage, or for a local job "
    ".penstock/checkpoints in the working directory.",
    ("execution.checkpointing.dir",),
)  # fmt: skip
SAVEPOINTS_DIR = Option(
    "state.savepoints.dir", TEXT, None, "Where savepoints go that name no directory: a directory or a URL.",
    ("execution.checkpointing.savepoint-dir",),
)  # fmt: skip
RETAINED_CHECKPOINTS = Option(
    "state.checkpoints.num-retained", COUNT, 1, "How many completed checkpoints are kept.",
    ("execution.checkpointing.num-retained",),
)  # fmt: skip
RESTORE = Option(
    "execution.state-recovery.path", TEXT, None,
    "Start from this checkpoint: its path, or 'latest' for the newest one of the job's name. The flag -s.",
    ("execution.savepoint.path",),
)  # fmt: skip
LOCAL_RECOVERY = Option(
    "execution.state-recovery.from-local", BOOL, True,
    "Keep copies of uploaded state on the machine until the next checkpoint, and restore from them where they are.",
    ("state.backend.local-recovery", "execution.checkpointing.local-backup.enabled"),
)  # fmt: skip
ALLOW_NON_RESTORED = Option(
    "execution.state-recovery.ignore-unclaimed-state", BOOL, False,
    "Start even when the checkpoint holds state of operators that the job no longer has. The flag -n.",
    ("execution.savepoint.ignore-unclaimed-state",),
)  # fmt: skip
CHECK_FUNCTIONS = Option(
    "execution.state-recovery.check-functions", BOOL, True,
    "Before a job starts from a checkpoint or savepoint, its functions are opened and closed once (on a cluster in a "
    "process of their own) to compare the state they declare. False: only ids and parallelism are compared then, types "
    "when the job restores.",
)  # fmt: skip

# state ---------------------------------------------------------------------------------------------------------

STATE_BACKEND: Option[Literal["rocksdb", "heap"]] = Option(
    "state.backend.type", one_of("rocksdb", "heap", hashmap="heap", filesystem="heap"), "rocksdb",
    "Where keyed rows live: on disk behind a cache, or in memory.", ("state.backend",),
)  # fmt: skip

# restarts ------------------------------------------------------------------------------------------------------

RESTART_STRATEGY = Option(
    "restart-strategy.type",
    one_of("exponential-delay", "fixed-delay", "failure-rate", "none", off="none", disable="none"),
    "exponential-delay", "What happens after a failure.", ("restart-strategy",),
)  # fmt: skip
FIXED_DELAY_ATTEMPTS = Option(
    "restart-strategy.fixed-delay.attempts", INT, 1, "fixed-delay: how often the job is restarted before it fails."
)
MAX_FAILURES = Option(
    "restart-strategy.failure-rate.max-failures-per-interval", COUNT, 1,
    "failure-rate: so many failures within the interval are restarted, one more is not.",
)  # fmt: skip
FAILURE_INTERVAL = Option(
    "restart-strategy.failure-rate.failure-rate-interval", DURATION, 60_000, "failure-rate: the interval."
)
FAILURE_RATE_DELAY = Option(
    "restart-strategy.failure-rate.delay", DURATION, 1_000, "failure-rate: pause before a restart."
)
FIXED_DELAY = Option("restart-strategy.fixed-delay.delay", DURATION, 1_000, "fixed-delay: pause before a restart.")
INITIAL_BACKOFF = Option(
    "restart-strategy.exponential-delay.initial-backoff", DURATION, 1_000, "exponential-delay: the first pause."
)
MAX_BACKOFF = Option(
    "restart-strategy.exponential-delay.max-backoff", DURATION, 60_000, "exponential-delay: the longest pause."
)
BACKOFF_MULTIPLIER = Option(
    "restart-strategy.exponential-delay.backoff-multiplier", FLOAT, 1.5,
    "exponential-delay: each pause is this much longer than the one before.",
)  # fmt: skip
RESET_BACKOFF = Option(
    "restart-strategy.exponential-delay.reset-backoff-threshold", DURATION, 600_000,
    "exponential-delay: after so long without a failure the pause starts anew.",
)  # fmt: skip
BACKOFF_ATTEMPTS = Option(
    "restart-strategy.exponential-delay.attempts-before-reset-backoff", INT, 0,
    "exponential-delay: how often the job is restarted before the reset; 0 means for ever.",
)  # fmt: skip

FAILOVER_STRATEGY = Option(
    "jobmanager.execution.failover-strategy", one_of("region", "full"), "region",
    "What a failure restarts: the subtasks connected with what failed, or the whole job.",
)  # fmt: skip

CANCEL_TIMEOUT = Option(
    "task.cancellation.timeout", DURATION, 30_000,
    "A function that has not returned so long after its task was cancelled hangs: its slot's process is killed.",
)  # fmt: skip

# network -------------------------------------------------------------------------------------------------------

CHANNEL_WINDOW = Option(
    "taskmanager.memory.network.channel-window", SIZE, 2**20, "Credit of one channel: how much may be under way on it."
)
DRAIN_TARGET = Option(
    "taskmanager.network.memory.buffer-debloat.target", DURATION, 250,
    "How long a task should take at most for what is under way to it on a channel: less of the window is used for a "
    "slow one, so that barriers do not wait long. 0 always uses the whole window.",
)  # fmt: skip

OPTIONS: tuple[Option[Any], ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Option)),
    *(
        value
        for module in (state_options, memory_options, cluster_options)
        for value in vars(module).values()
        if isinstance(value, Option)
    ),
)
"""Of jobs (here), of their state and memory (state_options.py, memory_options.py), and of clusters."""

# what Flink has and penstock does not --------------------------------------------------------------------------

_JVM = "it concerns Flink's JVM processes"
_TUNING = "Flink's tuning of its backends does not apply"
_CLUSTER = "a penstock cluster has nothing of that kind"
IGNORED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"(akka|pekko|classloader|blob|env|yarn|zookeeper|library-cache|jmx|python|security|jobstore|io)\..*", _JVM),
        (r"pipeline\.(jars|classpaths|object-reuse|force-\w+|serialization-config|cached-files)", _JVM),
        (r"pipeline\.(closure-cleaner-level|default-kryo-serializers|registered-\w+-types)", _JVM),
        (r"jobmanager\.memory\..*|taskmanager\.memory\.(flink|jvm|framework|task|segment-size)\b.*", _JVM),
        (r"restart-strategy\.exponential-delay\.jitter-factor", "restarts are not spread at random"),
        (r"state\.backend\.(incremental|latency-track|changelog|fs)\b.*", _TUNING),
        (r"state\.backend\.rocksdb\.(localdir|timer-service|checkpoint|options-factory|log|metrics)\b.*", _TUNING),
        (r"state\.backend\.rocksdb\.(restore-overlap-fraction-threshold|use-ingest-db-restore-mode)", _TUNING),
        (r"state\.backend\.rocksdb\.(rescaling|incremental-restore-async-compact-after-rescale)\b.*", _TUNING),
        (r"state\.backend\.rocksdb\.(compaction\.filter|manual-compaction|bloom-filter\.block)\b.*", _TUNING),
        (r"state\.backend\.rocksdb\.memory\.(managed|fixed-per-slot|fixed-per-tm|high-prio-pool-ratio)", _TUNING),
        (r"(rest|high-availability|jobmanager|web|heartbeat|cluster|kubernetes|metrics|slotmanager)\..*", _CLUSTER),
        (r"high-availability|taskmanager\.(memory\.managed\.consumer-weights|rpc\..*|data\..*)", _CLUSTER),
        (r"execution\.(attached|shutdown-on-attached-exit)", _CLUSTER),
    )
)  # fmt: skip
"""Option patterns that are accepted without effect, and why."""
