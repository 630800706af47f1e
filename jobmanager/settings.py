"""From a job's configuration to the options of its master."""

from __future__ import annotations

from ..runtime.configuration import options
from ..runtime.configuration.cluster_options import EXCEPTION_HISTORY
from ..runtime.configuration.config import Configuration
from ..state.savepoints.savepoint_store import located
from .options import CheckpointOptions, JobMasterOptions
from .restarts import ExponentialDelay, FailureRate, FixedDelay, NoRestart, RestartStrategy


def job_master_options(config: Configuration) -> JobMasterOptions:
    savepoints = config.get(options.SAVEPOINTS_DIR)
    return JobMasterOptions(
        checkpoints=checkpoint_options(config),
        restarts=restart_strategy(config),
        failover_by_region=config.get(options.FAILOVER_STRATEGY) == "region",
        allow_non_restored_state=config.get(options.ALLOW_NON_RESTORED),
        cancel_timeout_ms=config.get(options.CANCEL_TIMEOUT),
        commit_timeout_ms=config.get(options.COMMIT_TIMEOUT),
        cancel_commit_timeout_ms=config.get(options.CANCEL_COMMIT_TIMEOUT),
        savepoints_directory=None if savepoints is None else located(savepoints),
        exceptions_kept=config.get(EXCEPTION_HISTORY),
    )


def checkpoint_options(config: Configuration) -> CheckpointOptions | None:
    """None: checkpoints are switched off."""
    interval_ms = config.get(options.CHECKPOINT_INTERVAL)
    if interval_ms == 0:
        return None
    tolerable = config.get(options.TOLERABLE_FAILED_CHECKPOINTS)
    return CheckpointOptions(
        interval_ms=interval_ms,
        timeout_ms=config.get(options.CHECKPOINT_TIMEOUT),
        min_pause_ms=config.get(options.CHECKPOINT_MIN_PAUSE),
        max_concurrent=config.get(options.MAX_CONCURRENT_CHECKPOINTS),
        tolerable_failures=None if tolerable < 0 else tolerable,
        exactly_once=config.get(options.CHECKPOINT_MODE) == "exactly-once",
        unaligned_after_ms=_unaligned_after_ms(config),
        retained=config.get(options.RETAINED_CHECKPOINTS),
    )


def _unaligned_after_ms(config: Configuration) -> int | None:
    """Only one checkpoint at a time may overtake data: what it overtakes could be another one's barrier."""
    alone = config.get(options.MAX_CONCURRENT_CHECKPOINTS) == 1
    exactly_once = config.get(options.CHECKPOINT_MODE) == "exactly-once"
    if not (config.get(options.UNALIGNED) and alone and exactly_once):
        return None
    return config.get(options.ALIGNED_TIMEOUT)


def restart_strategy(config: Configuration) -> RestartStrategy:
    match config.get(options.RESTART_STRATEGY):
        case "none":
            return NoRestart()
        case "fixed-delay":
            return FixedDelay(config.get(options.FIXED_DELAY_ATTEMPTS), config.get(options.FIXED_DELAY))
        case "failure-rate":
            return FailureRate(
                config.get(options.MAX_FAILURES),
                config.get(options.FAILURE_INTERVAL),
                config.get(options.FAILURE_RATE_DELAY),
            )
        case _:
            return ExponentialDelay(
                config.get(options.INITIAL_BACKOFF),
                config.get(options.MAX_BACKOFF),
                config.get(options.BACKOFF_MULTIPLIER),
                config.get(options.RESET_BACKOFF),
                config.get(options.BACKOFF_ATTEMPTS) or None,
            )
