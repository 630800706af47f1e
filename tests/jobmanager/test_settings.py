"""From configuration keys to the options of the job master."""

from __future__ import annotations

import pytest

from penstock.jobmanager.restarts import ExponentialDelay, FailureRate, FixedDelay, NoRestart, RestartStrategy
from penstock.jobmanager.settings import job_master_options
from penstock.runtime.configuration.config import Configuration


@pytest.mark.parametrize(
    ("settings", "strategy"),
    [
        ({"type": "none"}, NoRestart()),
        ({"type": "fixed-delay", "fixed-delay.attempts": 4, "fixed-delay.delay": "2s"}, FixedDelay(4, 2_000)),
        (
            {
                "type": "failure-rate",
                "failure-rate.max-failures-per-interval": 5,
                "failure-rate.failure-rate-interval": "5min",
                "failure-rate.delay": "3s",
            },
            FailureRate(5, 300_000, 3_000),
        ),
        ({"exponential-delay.initial-backoff": "10ms"}, ExponentialDelay(10, 60_000, 1.5, 600_000, None)),
    ],
)
def test_restart_strategies(settings: dict[str, object], strategy: RestartStrategy) -> None:
    config = Configuration({f"restart-strategy.{key}": value for key, value in settings.items()})
    assert job_master_options(config).restarts == strategy


def test_an_interval_of_nothing_switches_checkpoints_off() -> None:
    assert job_master_options(Configuration({"execution.checkpointing.interval": 0})).checkpoints is None
    options = job_master_options(Configuration({"execution.checkpointing.mode": "at-least-once"})).checkpoints
    assert options is not None
    assert not options.exactly_once


def test_how_long_a_commit_may_take() -> None:
    assert job_master_options(Configuration()).commit_timeout_ms == 600_000
    settings = Configuration({"execution.checkpointing.commit-timeout": "3s"})
    assert job_master_options(settings).commit_timeout_ms == 3_000
    assert job_master_options(Configuration()).cancel_commit_timeout_ms == 30_000
    settings = Configuration({"execution.checkpointing.cancel-commit-timeout": "3s"})
    assert job_master_options(settings).cancel_commit_timeout_ms == 3_000


def test_how_long_cancelled_functions_may_take() -> None:
    assert job_master_options(Configuration()).cancel_timeout_ms == 30_000
    assert job_master_options(Configuration({"task.cancellation.timeout": "3s"})).cancel_timeout_ms == 3_000
