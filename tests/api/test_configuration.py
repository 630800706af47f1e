"""Options: how they are written, where they come from, what is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.configuration import options
from penstock.runtime.configuration.config import Configuration, from_environment, from_file, load
from penstock.runtime.units import format_duration, format_size, parse_duration_ms, parse_size_bytes
from penstock.state.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("10s", 10_000), ("500ms", 500), ("500 ms", 500), ("1min", 60_000), ("1 m", 60_000), ("1h 30min", 5_400_000),
        ("1.5s", 1_500), ("2d", 172_800_000), ("PT10S", 10_000), ("PT1H30M", 5_400_000), ("250", 250), (250, 250),
        (timedelta(seconds=3), 3_000), ("0", 0), ("10 seconds", 10_000),
        ("0.29s", 290), ("2000us", 2), ("1.1min", 66_000),
    ],
)  # fmt: skip
def test_durations(text: str | int | timedelta, milliseconds: int) -> None:
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["", "ten seconds", "10 parsecs", "s", "--5s", timedelta(seconds=-1), True, None, "P"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_duration_ms(text)


@pytest.mark.parametrize("value", ["-1s", " -1h 30min", "-PT5S", -1, timedelta(seconds=-1)])
def test_negative_durations_are_called_so(value: str | int | timedelta) -> None:
    with pytest.raises(ConfigurationError, match=r"^retention: the duration .* is negative, and durations are not"):
        parse_duration_ms(value, "retention")


@pytest.mark.parametrize("value", [1.5, 2.0, float("nan")])
def test_floats_are_no_durations(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is an int \(ms\), a string like '10s' or a timedelta, not"):
        parse_duration_ms(value)


@pytest.mark.parametrize("value", ["0.4ms", "100us", "1.0005s", "PT0.0001S", timedelta(microseconds=1500)])
def test_durations_are_never_rounded(value: str | timedelta) -> None:
    with pytest.raises(ConfigurationError, match=r"^retention: the duration .* is no whole number of milliseconds"):
        parse_duration_ms(value, "retention")


@pytest.mark.parametrize(
    ("text", "size"), [("128MiB", 128 * 2**20), ("64kb", 65_536), ("1 g", 2**30), ("7", 7), (7, 7), ("1.5k", 1_536)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "big", "3 apples", -1, True])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_size_bytes(text)


@given(st.integers(0, 10**12))
def test_formatted_values_are_read_back(number: int) -> None:
    assert parse_duration_ms(format_duration(number)) == number
    assert parse_size_bytes(format_size(number)) == number


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.key)
def test_every_option_has_a_name_a_description_and_a_readable_default(option: options.Option[object]) -> None:
    assert option.description
    if option.default is not None:
        assert option.parse(option.format(option.default)) == option.default


def test_an_option_that_is_not_set_has_its_default() -> None:
    assert Configuration().get(options.CHECKPOINT_INTERVAL) == 10_000


def test_values_are_parsed_when_they_are_set() -> None:
    configuration = Configuration(
        {"execution.checkpointing.interval": "1s", "execution.checkpointing.mode": "AT_LEAST_ONCE"}
    )
    assert configuration.get(options.CHECKPOINT_INTERVAL) == 1_000
    assert configuration.get(options.CHECKPOINT_MODE) == "at-least-once"


def test_other_spellings_of_flink_mean_the_same_option() -> None:
    assert Configuration({"state.backend": "hashmap"}).get(options.STATE_BACKEND) == "heap"


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean execution\.checkpointing\.interval"):
        Configuration({"execution.checkpoint.interval": "1s"})


def test_an_impossible_value_is_refused_with_the_name_of_the_option() -> None:
    with pytest.raises(ConfigurationError, match=r"option parallelism.default: 0 is less than 1"):
        Configuration({"parallelism.default": 0})
    with pytest.raises(ConfigurationError, match=r"option state.backend.type: 'redis' is none of rocksdb, heap"):
        Configuration({"state.backend.type": "redis"})


def test_options_of_the_jvm_are_ignored_with_a_note() -> None:
    configuration = Configuration({"taskmanager.memory.jvm-metaspace.size": "1g", "env.java.opts.all": "-Xmx1g"})
    assert list(configuration) == []
    assert len(configuration.notes) == 2
    assert "taskmanager.memory.jvm-metaspace.size is ignored" in configuration.notes[0]


def test_a_configuration_travels_as_strings() -> None:
    configuration = Configuration(
        {
            "execution.buffer-timeout": "10ms",
            "pipeline.global-job-parameters": {"a": "1"},
            "pipeline.generic-types": False,
        }
    )
    assert Configuration.from_dict(configuration.to_dict()) == configuration


def test_environment_variables() -> None:
    environ = {
        "PENSTOCK__EXECUTION__CHECKPOINTING__MIN_PAUSE": "2s",
        "PENSTOCK_PARALLELISM": "3",
        "PENSTOCK_ADDRESS": "somewhere",
        "PATH": "/bin",
    }
    configuration = from_environment(environ)
    assert configuration.get(options.CHECKPOINT_MIN_PAUSE) == 2_000
    assert configuration.get(options.PARALLELISM) == 3


def test_an_unknown_environment_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"PENSTOCK__PARALLELISM__DEFAULTS.*did you mean parallelism.default"):
        from_environment({"PENSTOCK__PARALLELISM__DEFAULTS": "2"})


def test_a_file_may_nest_or_write_dots(tmp_path: Path) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_text(
        "parallelism.default: 2\nexecution:\n  checkpointing: {interval: 5s}\npipeline.global-job-parameters: {a: 1}\n"
    )
    configuration = from_file(path)
    assert configuration.get(options.PARALLELISM) == 2
    assert configuration.get(options.CHECKPOINT_INTERVAL) == 5_000
    assert configuration.get(options.JOB_PARAMETERS) == {"a": "1"}


@pytest.mark.parametrize("content", ["- 1\n", "a: [", "no.such.option: 1\n", "\udc80"])
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match=r"penstock\.yaml"):
        from_file(path)


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "penstock.yaml").write_text(
        "parallelism.default: 2\nexecution.buffer-timeout: 1ms\nstate.checkpoints.num-retained: 7\n"
    )
    environ = {"PENSTOCK__PARALLELISM__DEFAULT": "3", "PENSTOCK__EXECUTION__BUFFER_TIMEOUT": "2ms"}
    configuration = load(environ, tmp_path, {"parallelism.default": "4"})
    assert configuration.get(options.PARALLELISM) == 4
    assert configuration.get(options.BUFFER_TIMEOUT) == 2
    assert configuration.get(options.RETAINED_CHECKPOINTS) == 7
