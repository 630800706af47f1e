"""Every option of a job, with its type, its default and what it does.

Names are Flink's wherever Flink has the option. `docs` and `penstock config` print this list. Options of Flink that
have no meaning here are accepted and ignored with a note (IGNORED); everything else is refused with the nearest name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar

from ..state.errors import ConfigurationError
from .units import format_duration, format_size, parse_duration_ms, parse_size_bytes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of option values: how they are read from what users write, and written down again."""

    name: str
    parse: Callable[[Any], T]
    format: Callable[[T], str] = str


@dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    """Something that can be configured."""

    key: str
    kind: Kind[T]
    default: T
    description: str
    aliases: tuple[str, ...] = ()
    """Other spellings that Flink accepts."""

    def parse(self, value: object) -> T:
        """Raises ConfigurationError that names the option."""
        try:
            return self.kind.parse(value)
        except (ConfigurationError, ValueError, TypeError) as error:
            reason = str(error) if isinstance(error, ConfigurationError) else f"{value!r} is not {self.kind.name}"
            raise ConfigurationError(f"option {self.key}: {reason}") from None

    def format(self, value: T) -> str:
        return "" if value is None else self.kind.format(value)


def _parse_bool(value: object) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    if (answer := known.get(str(value).lower())) is None:
        raise ConfigurationError(f"{value!r} is neither true nor false")
    return answer


def _parse_int(value: Any) -> int:
    if isinstance(value, (bool, float)):
        raise TypeError
    return int(value)


def _positive(value: Any) -> int:
    if (number := _parse_int(value)) < 1:
        raise ConfigurationError(f"{number} is less than 1")
    return number


def _parse_map(value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    entries = [entry for entry in str(value).split(",") if entry.strip()]
    if any(":" not in entry for entry in entries):
        raise ConfigurationError(f"{value!r} is not a list of entries like 'name:value,other:value'")
    return {key.strip(): item.strip() for key, item in (entry.split(":", 1) for entry in entries)}


def one_of(*choices: str, **spellings: str) -> Kind[Any]:
    """A choice; upper case and underscores (Flink's enums) are accepted, `spellings` are further names."""

    def parse(value: object) -> str:
        name = str(value).lower().replace("_", "-")
        name = spellings.get(name, name)
        if name not in choices:
            raise ConfigurationError(f"{value!r} is none of {', '.join(choices)}")
        return name

    return Kind(f"one of {', '.join(choices)}", parse)


def _optional_text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


BOOL = Kind("true or false", _parse_bool, lambda value: str(value).lower())
INT = Kind("a whole number", _parse_int)
COUNT = Kind("a whole number of at least 1", _positive)
FLOAT: Kind[float] = Kind("a number", float)
DURATION: Kind[int] = Kind("a duration", parse_duration_ms, format_duration)
SIZE: Kind[int] = Kind("a size", parse_size_bytes, format_size)
TEXT: Kind[str | None] = Kind("a text", _optional_text, str)
MAP: Kind[dict[str, str]] = Kind(
    "a map", _parse_map, lambda entries: ",".join(f"{key}:{item}" for key, item in entries.items())
)
Duration = str | int | timedelta
"""What a user may write where a duration is expected."""

# the job -------------------------------------------------------------------------------------------------------

JOB_NAME = Option("pipeline.name", TEXT, None, "Name of the job when execute() is called without one.")
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
RUNTIME_MODE = Option("execution.runtime-mode", one_of("streaming"), "streaming", "How the job runs.")
BUFFER_TIMEOUT = Option(
    "execution.buffer-timeout.interval", DURATION, 10,
    "How long records may wait for company before a batch is sent to the next task; 0 sends after every slice.",
    ("execution.buffer-timeout",),
)  # fmt: skip

# checkpoints ---------------------------------------------------------------------------------------------------

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
CHECKPOINT_MIN_PAUSE = Option(
    "execution.checkpointing.min-pause", DURATION, 0, "Least time between the end of a checkpoint and the next one."
)
MAX_CONCURRENT_CHECKPOINTS = Option(
    "execution.checkpointing.max-concurrent-checkpoints", COUNT, 1, "How many checkpoints may be under way at once."
)
TOLERABLE_FAILED_CHECKPOINTS = Option(
    "execution.checkpointing.tolerable-failed-checkpoints", INT, -1,
    "How many checkpoints in a row may fail; one more fails the attempt. -1: any number.",
)  # fmt: skip
CHECKPOINTS_DIR = Option(
    "state.checkpoints.dir", TEXT, None,
    "Where checkpoints go: a directory or an object store's URL. Without it .penstock in the working directory.",
    ("execution.checkpointing.dir",),
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
ALLOW_NON_RESTORED = Option(
    "execution.state-recovery.ignore-unclaimed-state", BOOL, False,
    "Start even when the checkpoint holds state of operators that the job no longer has. The flag -n.",
    ("execution.savepoint.ignore-unclaimed-state",),
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

# memory --------------------------------------------------------------------------------------------------------

NETWORK_MEMORY = Option(
    "taskmanager.memory.network.max", SIZE, 256 * 2**20,
    "Most that the windows of all of a slot's channels may hold together; checked when the job is submitted.",
)  # fmt: skip
CHANNEL_WINDOW = Option(
    "taskmanager.memory.network.channel-window", SIZE, 2**20, "Credit of one channel: how much may be under way on it."
)

OPTIONS: tuple[Option[Any], ...] = tuple(value for value in list(globals().values()) if isinstance(value, Option))

# what Flink has and penstock does not --------------------------------------------------------------------------

_JVM = "it concerns Flink's JVM processes"
_TUNING = "Flink's tuning of its backends does not apply"
_CLUSTER = "it has no effect on a job that runs in one process"
IGNORED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"(akka|pekko|classloader|blob|env|yarn|zookeeper|library-cache|jmx|python|security|jobstore|io)\..*", _JVM),
        (r"pipeline\.(jars|classpaths|object-reuse|force-\w+|serialization-config|cached-files)", _JVM),
        (r"pipeline\.(closure-cleaner-level|default-kryo-serializers|registered-\w+-types)", _JVM),
        (r"jobmanager\.memory\..*|taskmanager\.memory\.(process|flink|jvm|framework|task|segment-size)\b.*", _JVM),
        (r"taskmanager\.memory\.network\.(min|fraction)", _JVM),
        (r"pipeline\.auto-watermark-interval", "watermarks are made after every batch"),
        (r"restart-strategy\.exponential-delay\.jitter-factor", "restarts are not spread at random"),
        (r"state\.backend\.(rocksdb|incremental|latency-track|local-recovery|changelog|fs)\b.*", _TUNING),
        (r"(rest|high-availability|jobmanager|web|heartbeat|cluster|kubernetes|metrics|slotmanager)\..*", _CLUSTER),
        (r"high-availability|taskmanager\.(numberOfTaskSlots|memory\.managed\..*|host|rpc\..*|data\..*)", _CLUSTER),
        (r"state\.savepoints\.dir|execution\.(attached|target|shutdown-on-attached-exit)", _CLUSTER),
    )
)  # fmt: skip
"""Option patterns that are accepted without effect, and why."""
