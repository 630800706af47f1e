"""Whether what is restored fits a job, told before anything of the job runs: in this process, and in one of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.files.source import FileSource
from penstock.connectors.formats.text import Text
from penstock.connectors.print import PrintSink
from penstock.jobmanager.cluster.restore_process import Checked, check_aside
from penstock.jobmanager.local_job import LocalJob
from penstock.jobmanager.restore_check import Fit, check_restore, require_fit
from penstock.runtime.event_time.watermark_generators import UserGenerator
from penstock.state.errors import IncompatibleStateError
from penstock.state.ids import OperatorId
from penstock.state.savepoints.stored_state import StoredSnapshot
from penstock.state.serialization.pickling import dumps
from penstock.state.snapshots import CheckpointMetadata, OperatorSnapshot
from penstock.testing.lists import ListSink, ListSource

NUMBERS = list(range(200))


@dataclass
class Account:
    total: int
    owner: str = ""


@dataclass
class Longer:
    total: float
    owner: str = ""
    note: str = "new"


@dataclass
class Stricter:
    total: str
    limit: int


class Counting(ps.KeyedProcessFunction, ps.CheckpointedFunction):
    """Declares what it is told to, in this order, and an operator state."""

    def __init__(self, descriptors: list[Any], rules: Any = int, opening: Callable[[], object] = int) -> None:
        self.descriptors, self.rules, self.opening = descriptors, rules, opening

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.opening()
        get = {"value": runtime_context.get_state, "list": runtime_context.get_list_state,
               "map": runtime_context.get_map_state}  # fmt: skip
        self.states = [get[descriptor.kind](descriptor) for descriptor in self.descriptors]

    def initialize_state(self, context: ps.FunctionInitializationContext) -> None:
        self.known = context.get_operator_state_store().get_list_state(ps.ListStateDescriptor("rules", self.rules))

    def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None:
        self.known.update([1])

    def process_element(self, number: int, ctx: Any) -> Iterator[int]:
        account, seen, names = self.states
        account.update(Account(number))
        seen.add(number)
        names.put(number, str(number))
        yield number


ACCOUNT = ps.ValueStateDescriptor("account", Account)
SEEN = ps.ListStateDescriptor("seen", int)
NAMES = ps.MapStateDescriptor("names", int, str)


def by_number(number: int) -> int:
    return number % 3


def by_name(number: int) -> str:
    return str(number % 3)


def job(
    function: Any, *, uid: str = "counting", source_uid: str = "numbers", key: Any = by_number, **options: Any
) -> ps.StreamExecutionEnvironment:
    env = ps.StreamExecutionEnvironment(ps.Configuration(options)).set_parallelism(2)
    source = ListSource(NUMBERS, splits=2, batch_rows=1, pause_ms=10, record_type=int)
    numbers = env.from_source(source, name="numbers", uid=source_uid)
    numbers.key_by(key).process(function, output_type=int).uid(uid).sink_to(ListSink("checked")).uid("out")
    return env.set_max_parallelism(16)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointMetadata]:
    """Of a savepoint of the job as it was."""
    directory = tmp_path_factory.mktemp("checked")
    env = job(Counting([ACCOUNT, SEEN, NAMES]))
    env.enable_checkpointing("10ms", storage=str(directory / "store"))
    running = LocalJob(env.job_graph("job"), env.configuration)
    try:
        running.run(lambda: running.status().checkpoints.completed > 1)
        request = running.savepoint(str(directory))
        running.run(lambda: (found := running.operation(request)) is not None and found.ended)
        savepoint = running.operation(request)
        assert savepoint is not None
        yield StoredSnapshot.open(savepoint.path, {}).metadata
    finally:
        running.close()
        ListSink.clear("checked")


def fit_of(written: CheckpointMetadata, env: ps.StreamExecutionEnvironment) -> Fit:
    return check_restore(written, env.job_graph("job"))


def test_a_job_that_fits_and_one_that_has_evolved(written: CheckpointMetadata) -> None:
    longer = ps.ValueStateDescriptor("account", Longer)
    for descriptors in ([ACCOUNT, SEEN, NAMES], [longer, SEEN], [ps.ValueStateDescriptor("new", str)]):
        fit = fit_of(written, job(Counting(descriptors)))
        assert (fit.problems, fit.dropped, fit.empty, fit.unknown) == ([], [], [], [])
        assert (fit.refusal(may_drop=False), fit.notes()) == (None, [])


def test_all_misfits_of_an_operator_are_told_at_once(written: CheckpointMetadata) -> None:
    stricter = ps.ValueStateDescriptor("account", Stricter)
    value, keys = ps.ValueStateDescriptor("seen", int), ps.MapStateDescriptor("names", str, str)
    account, seen, names = fit_of(written, job(Counting([stricter, value, keys]))).problems
    assert account.startswith("state 'account' of operator 'process Counting' does not fit what was restored: ")
    assert "field 'total' was int and is now str; declare 'total' so that it can be int" in account
    assert "field 'limit' is new and has no default" in account
    assert "state 'seen'" in seen
    assert "it was a list state and is now declared as a value state" in seen
    assert "state 'names' of operator 'process Counting': the keys of its restored state are of type int" in names


def test_keys_of_the_stream_do_not_change(written: CheckpointMetadata) -> None:
    (problem,) = fit_of(written, job(Counting([ACCOUNT, SEEN, NAMES]), key=by_name)).problems
    assert problem.startswith("operator 'process Counting': the keys of its restored state are of type int, and now of")
    assert "type str" in problem


def test_operator_state_is_compared_too(written: CheckpointMetadata) -> None:
    (problem,) = fit_of(written, job(Counting([ACCOUNT], rules=str))).problems
    assert "operator state 'rules' of operator 'process Counting'" in problem
    assert "was int and is now str" in problem


def test_what_is_dropped_is_told_exactly(written: CheckpointMetadata) -> None:
    fit = fit_of(written, job(Counting([ACCOUNT]), uid="another"))
    assert [(each.operator, set(each.states)) for each in fit.dropped] == [
        ("counting", {"account", "seen", "names", "rules", "timers/event", "timers/processing"})
    ]
    assert fit.empty == ["process Counting"]
    assert fit.refusal(may_drop=True) is None
    refusal = fit.refusal(may_drop=False)
    assert refusal is not None
    assert "state of operators that the job does not have: counting (state 'account', " in refusal
    (note,) = fit.notes()
    assert note.startswith("dropped of checkpoint ")


def test_a_source_and_a_sink_that_are_dropped(written: CheckpointMetadata) -> None:
    env = ps.StreamExecutionEnvironment()
    env.from_source(ListSource(NUMBERS), name="numbers", uid="others").print()
    dropped = {each.operator: str(each) for each in fit_of(written, env).dropped}
    assert set(dropped) == {"numbers", "counting", "out"}
    assert dropped["numbers"] == "numbers (how far its source was read)"
    assert "commits of its sink, which may not be done" in dropped["out"]


def test_several_reasons_stand_on_lines_of_their_own(written: CheckpointMetadata) -> None:
    env = job(Counting([ps.ValueStateDescriptor("account", Stricter)]))
    env.set_max_parallelism(8)
    with pytest.raises(IncompatibleStateError) as refused:
        require_fit(written, env.job_graph("job"), env.configuration)
    assert "max parallelism 16, the job has 8; set it back" in str(refused.value)


def no_service() -> None:
    raise OSError("no connection")


def test_a_function_that_cannot_be_opened_here_is_no_reason_to_refuse(written: CheckpointMetadata) -> None:
    env = job(Counting([ACCOUNT], opening=no_service))
    (note,) = require_fit(written, env.job_graph("job"), env.configuration)
    assert note.endswith("process Counting: it cannot be opened here: OSError: no connection")


def test_functions_are_not_opened_where_that_is_not_wanted(written: CheckpointMetadata) -> None:
    env = job(Counting([ACCOUNT], opening=no_service), **{"execution.state-recovery.check-functions": "false"})
    source, function = require_fit(written, env.job_graph("job"), env.configuration)
    assert source.endswith("numbers: its source was not asked to read its positions")
    assert function.endswith("process Counting: its functions were not opened")


# in a process of its own --------------------------------------------------------------------------------------------


MODULE = """
import os, time
from dataclasses import dataclass
import penstock as ps

@dataclass
class Account:
    total: {total}
    owner: str = ""

class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context):
        {opening}
        runtime_context.get_state(ps.ValueStateDescriptor("account", Account))

    def process_element(self, number: int, ctx):
        yield number

def key(number: int) -> int:
    return number % 3
"""


@pytest.fixture
def aside(written: CheckpointMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Checked]:
    """The check of a job whose functions are in a module of their own."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"checked_{tmp_path.name}"

    def check(
        *, total: str = "int", opening: str = "pass", timeout_ms: int = 60_000, found: bool = True, **settings: Any
    ) -> Checked:
        (tmp_path / f"{name}.py").write_text(MODULE.format(total=total, opening=opening))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        env = job(module.Counting(), key=module.key, **settings)
        graph, path = dumps(env.job_graph("job")), [str(tmp_path)] if found else []
        return check_aside(graph, written, env.configuration, path, None, timeout_ms)

    return check


def test_a_process_of_its_own_finds_the_same(aside: Callable[..., Checked]) -> None:
    assert aside() == Checked()
    refusal = aside(total="str").refusal
    assert refusal is not None
    assert "field 'total' was int and is now str" in refusal


def test_an_open_that_does_not_return_keeps_nothing_from_starting(aside: Callable[..., Checked]) -> None:
    checked = aside(opening="time.sleep(600)", timeout_ms=3_000)
    assert checked.refusal is None
    assert "did not come to an end within 3s (jobmanager.capture-timeout)" in checked.notes[-1]


def test_what_ids_alone_say_counts_even_if_a_function_takes_the_process_with_it(aside: Callable[..., Checked]) -> None:
    checked = aside(opening="os._exit(3)", source_uid="others")
    assert checked.refusal is not None
    assert "operators that the job does not have: numbers (how far its source was read);" in checked.refusal
    assert "the process in which functions are opened for that ended itself with code 3" in checked.notes[-1]


def test_a_module_that_is_not_there_is_told_and_left_to_the_job(aside: Callable[..., Checked]) -> None:
    checked = aside(found=False)
    assert checked.refusal is None
    assert "its pipeline cannot be read here: ModuleNotFoundError: No module named 'checked_" in checked.notes[0]


# sources and sinks --------------------------------------------------------------------------------------------------


def through(
    source: Any, sink: Any, *, uid: str = "numbers", out: str = "out", generator: Any = None, also: str = ""
) -> ps.StreamExecutionEnvironment:
    """`also`: the uid of a function behind the source."""
    env = ps.StreamExecutionEnvironment()
    strategy = None if generator is None else ps.WatermarkStrategy.for_generator(generator)
    numbers = env.from_source(source, strategy, name="numbers", uid=uid)
    counted = numbers.key_by(by_number).process(Counting([ACCOUNT, SEEN, NAMES]), output_type=int).uid("counting")
    (counted.map(int).uid(also) if also else counted).sink_to(sink).uid(out)
    return env.set_max_parallelism(16)


def test_another_connector_s_source_is_refused(written: CheckpointMetadata, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("1\n")
    files = FileSource(tmp_path / "lines", Text())
    (problem,) = fit_of(written, through(files, ListSink("checked"))).problems
    assert problem.startswith("operator 'numbers': a FileSource cannot go on where the source of that id was: ")
    assert problem.endswith("to begin anew give it another uid, and drop what was read before (-n)")
    assert fit_of(written, through(ListSource(NUMBERS, record_type=int), ListSink("checked"))).problems == []


class Unreachable(ListSource):
    def create_enumerator(self, restored: bytes | None) -> Any:
        raise OSError("no connection")


def test_a_source_that_cannot_be_asked_here_is_told(written: CheckpointMetadata) -> None:
    fit = fit_of(written, through(Unreachable(NUMBERS, record_type=int), ListSink("checked")))
    assert fit.problems == []
    assert "numbers: its positions cannot be read here: OSError: no connection" in fit.unknown


class Strict:
    """Its state is a number of its own."""

    def on_event(self, event: Any, timestamp: int, output: Any) -> None: ...

    def snapshot(self) -> int:
        return 1

    def restore(self, state: int) -> None:
        raise ValueError(f"not {state}")


def test_a_generator_that_cannot_go_on_is_refused(written: CheckpointMetadata) -> None:
    splits = [
        replace(split, watermark_state=UserGenerator(Strict).snapshot())
        for subtask in written.subtasks
        for operator in subtask.operators
        for split in operator.splits
    ]
    of_source = OperatorSnapshot(OperatorId("numbers"), splits=tuple(splits))
    metadata = replace(
        written,
        subtasks=tuple(
            replace(each, operators=tuple(of_source if o.operator_id == "numbers" else o for o in each.operators))
            for each in written.subtasks
        ),
    )
    env = through(ListSource(NUMBERS, record_type=int), ListSink("checked"), generator=Strict)
    (problem,) = fit_of(metadata, env).problems
    assert problem.startswith("operator 'numbers': its watermark generator cannot go on: ")
    assert "not 1" in problem


def test_what_was_a_source_or_a_sink_and_is_none_any_more(written: CheckpointMetadata) -> None:
    source, sink = ListSource(NUMBERS, record_type=int), ListSink("checked")
    (was_source,) = fit_of(written, through(source, sink, uid="new", out="new out", also="numbers")).problems
    assert was_source == (
        "operator 'numbers' was a source and is now 'map int', so what it had read would be forgotten; give that "
        "another uid, and drop it (-n) if it is to go"
    )
    (was_sink,) = fit_of(written, through(source, sink, out="new out", also="out")).problems
    assert was_sink.startswith("operator 'out' was a sink and is now 'map int', so its ")
    assert "commits would not be done" in was_sink


def test_commits_are_not_lost_to_a_sink_that_does_none(written: CheckpointMetadata) -> None:
    (problem,) = fit_of(written, through(ListSource(NUMBERS, record_type=int), PrintSink())).problems
    assert "a PrintSink commits nothing, and " in problem


class NoService(PrintSink):
    def create_committer(self) -> Any:
        raise OSError("no connection")


def test_a_sink_that_cannot_be_asked_here_is_told(written: CheckpointMetadata) -> None:
    fit = fit_of(written, through(ListSource(NUMBERS, record_type=int), NoService()))
    assert fit.problems == []
    assert fit.unknown == ["sink: whether it commits cannot be found out here: OSError: no connection"]
