"""The cluster as a whole: it comes up, comes back, and goes, whoever dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from penstock.jobmanager.startup import cluster_control, node_processes
from penstock.jobmanager.startup.cluster_rest import answers, settle_rest_port
from penstock.jobmanager.startup.cluster_state import ClusterFiles, ClusterState, running_clusters
from penstock.jobmanager.startup.cluster_supervisor import Supervisor
from penstock.jobmanager.startup.embedded_cluster import EmbeddedCluster, unclaimed
from penstock.jobmanager.startup.node_processes import is_alive
from penstock.jobmanager.startup.ray_address import ClusterError
from penstock.jobmanager.startup.restart_budget import Remedy, RestartBudget, Vigil
from penstock.runtime.configuration.cluster_options import RESUME_JOBS
from penstock.runtime.configuration.config import Configuration

if TYPE_CHECKING:
    from conftest import Cluster, WaitFor

# a cluster that lives, and comes back ---------------------------------------------------------------------------


def test_a_cluster_answers_and_says_where_it_is(cluster: Cluster, wait_for: WaitFor) -> None:
    state = cluster.state()
    assert (state.phase, state.cluster_id, state.restarts) == ("running", "shared", 0)
    assert state.rest_url == cluster.address
    assert state.pid == cluster.supervisor_pid
    wait_for(lambda: cluster.get("/overview")["slots-total"] == 6, "its slots are there")
    assert state in running_clusters(cluster.config)
    assert cluster_control.status(cluster.config) == state
    assert cluster.actor("Dispatcher").is_running()
    secrets = (cluster.files.secret(), cluster.files.secret("token"))
    assert not any(secret in " ".join(p.cmdline()) for secret in secrets for p in cluster.processes())


def test_rest_shows_a_task_manager_that_stands_still_as_it_was_last_heard(cluster: Cluster, wait_for: WaitFor) -> None:
    """Until it has been silent for `heartbeat.timeout`, and without waiting for it."""
    wait_for(lambda: cluster.get("/overview")["slots-total"] == 6, "its slots are there")
    manager = cluster.actor("TaskManager")
    manager.suspend()
    try:
        first, overview, again = (cluster.get(path) for path in ("/taskmanagers", "/overview", "/taskmanagers"))
        assert manager.status() == psutil.STATUS_STOPPED, "nobody has waited until it was given up"
    finally:
        manager.resume()
    assert (overview["taskmanagers"], overview["slots-total"]) == (1, 6)
    ((before,), (after,)) = first["taskmanagers"], again["taskmanagers"]
    assert before["timeSinceLastHeartbeat"] == after["timeSinceLastHeartbeat"]
    wait_for(
        lambda: (
            cluster.get("/taskmanagers")["taskmanagers"][0]["timeSinceLastHeartbeat"] > after["timeSinceLastHeartbeat"]
        ),
        "it is heard again",
    )


def test_a_second_one_of_the_name_is_told_about_the_first(cluster: Cluster) -> None:
    with pytest.raises(
        ClusterError, match=rf"'shared' runs on this machine already \(process {cluster.supervisor_pid}"
    ):
        EmbeddedCluster.start(cluster.config)
    with pytest.raises(ClusterError, match=r"^a cluster 'shared' runs on this machine already .*=NAME$"):
        cluster_control.start_in_background(cluster.config)


def test_a_killed_dispatcher_is_back_at_the_same_address(cluster: Cluster, wait_for: WaitFor) -> None:
    dispatcher = cluster.actor("Dispatcher")
    dispatcher.kill()
    wait_for(lambda: not is_alive(dispatcher) and answers(cluster.address), "REST answers again")
    assert cluster.state().restarts == 0


def test_when_all_of_ray_dies_a_new_one_is_started(cluster: Cluster, wait_for: WaitFor) -> None:
    before, known = cluster.state(), cluster.processes()
    cluster.ray_process("gcs_server").kill()
    after: ClusterState = wait_for(lambda: _running_again(cluster, before.restarts), "the cluster is back")
    assert (after.rest_url, after.ray_address) == (before.rest_url, before.ray_address)
    assert after.keeper_pid != before.keeper_pid
    assert after.last_failure is not None
    assert [process for process in known if is_alive(process)] == []
    wait_for(lambda: cluster.get("/overview")["slots-total"] == 6, "its slots are back")


def test_a_new_head_takes_up_what_runs_on_the_cluster_of_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Configuration(
        {"io.tmp.dirs": str(tmp_path), "cluster.id": "scripts", "high-availability.resume-jobs": False}
    )
    supervisor, resumes = Supervisor(config, embedded=True), []
    supervisor.claim()
    monkeypatch.setattr(supervisor, "_bring_up", lambda port: resumes.append(supervisor.config.get(RESUME_JOBS)))
    supervisor._restart("Ray's head died")
    assert resumes == [True]
    supervisor.files.release()


def _running_again(cluster: Cluster, restarts: int) -> ClusterState | None:
    state = cluster.state()
    return state if state.phase == "running" and state.restarts > restarts else None


# its end --------------------------------------------------------------------------------------------------------

SCRIPT = """
    import os, signal, sys
    from penstock.jobmanager.startup.embedded_cluster import EmbeddedCluster
    from penstock.runtime.configuration.config import Configuration

    cluster = EmbeddedCluster.start(Configuration(dict(pair.split("=", 1) for pair in sys.argv[1:])))
    print(cluster.supervisor_pid, flush=True)
    signal.pause()
"""


def test_when_the_script_is_killed_its_cluster_goes_with_it(short_directory: Path, wait_for: WaitFor) -> None:
    options = {"io.tmp.dirs": str(short_directory), "cluster.id": "script", "rest.port": "0"}
    options |= {"high-availability.storageDir": str(short_directory / "store"), "taskmanager.numberOfTaskSlots": "1"}
    arguments = [f"{key}={value}" for key, value in options.items()]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments], stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        supervisor = psutil.Process(int(script.stdout.readline()))
        files = ClusterFiles.of(Configuration(options))
        state = files.read()
        assert state is not None
        known = [supervisor, *node_processes.members(str(files.directory), state.keeper_pid)]
        script.kill()
    wait_for(lambda: not any(is_alive(process) for process in known), "all processes end")
    wait_for(lambda: not files.directory.exists(), "its files are gone")


def test_in_the_background_it_stays_until_it_is_stopped(short_directory: Path) -> None:
    """`penstock cluster start -d | tee log` must end, and nothing of it takes a folder of the user's for penstock. And
    who stops it by its address waits until it is gone."""
    project = short_directory / "project"
    (project / "penstock").mkdir(parents=True)
    (project / "penstock" / "__init__.py").write_text("raise ImportError('this is another one')")
    config = Configuration({"io.tmp.dirs": str(short_directory), "cluster.id": "daemon"})
    options = ["-c", f"io.tmp.dirs={short_directory}", "-c", "cluster.id=daemon"]
    others = ["-c", f"high-availability.storageDir={short_directory / 'store'}", "-c", "rest.port=0", "--slots", "1"]
    penstock = [sys.executable, "-P", "-m", "penstock.api.command_line", "cluster"]
    try:
        command = [*penstock, "start", "-d", *options, *others]
        started = subprocess.run(command, capture_output=True, timeout=100, cwd=project)
        assert started.returncode == 0, started.stderr.decode()
        (url,) = started.stdout.decode().split()
        assert answers(url)
        files = ClusterFiles.of(config)
        state = files.read()
        assert state is not None
        assert state.rest_url == url
        assert state in running_clusters(config)
        known = [psutil.Process(state.pid), *node_processes.members(str(files.directory), state.keeper_pid)]
        by_address = {**os.environ, "PENSTOCK_ADDRESS": url}
        stopped = subprocess.run(
            [*penstock, "stop", "--yes", *options[:2]], env=by_address, capture_output=True, timeout=100, check=True
        )
        assert f"the cluster at {url} has stopped" in stopped.stderr.decode()
        assert state not in running_clusters(config)
        assert [process for process in known if is_alive(process)] == []
        assert not files.directory.exists()
    finally:
        if cluster_control.status(config) is not None:  # the test has failed
            cluster_control.stop(config)
    with pytest.raises(ClusterError, match="no cluster 'daemon' runs on this machine"):
        cluster_control.stop(config)


# what cannot start ----------------------------------------------------------------------------------------------


def test_a_dispatcher_that_cannot_start_says_why_and_nothing_is_left(short_directory: Path) -> None:
    config = Configuration({"io.tmp.dirs": str(short_directory), "cluster.id": "refused", "rest.port": 0}).merged(
        Configuration({"high-availability.storageDir": "/proc/nowhere"})
    )
    with pytest.raises(ClusterError, match="/proc/nowhere"):
        EmbeddedCluster.start(config)
    files = ClusterFiles.of(config)
    assert node_processes.members(str(files.directory)) == []
    assert not files.is_claimed()


def test_a_port_in_use_is_named_with_the_other_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = Configuration({"rest.port": port})
        with pytest.raises(
            ClusterError, match=rf"{port} of 127\.0\.0\.1 is in use by process {os.getpid()}.*rest\.port"
        ):
            settle_rest_port(config, any_port=False)
        note = settle_rest_port(config, any_port=True)
        taken = config.to_dict()["rest.port"]
        assert taken not in ("0", str(port))
        assert note is not None
        assert str(port) in note
        assert taken in note


def test_port_0_becomes_one_that_stays() -> None:
    config = Configuration({"rest.port": 0})
    assert settle_rest_port(config, any_port=False) is None
    assert config.to_dict()["rest.port"] != "0"


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_is_not_ours_is_refused(host: str, port: int) -> None:
    with pytest.raises(ClusterError, match=r"REST cannot listen at .* set rest\.bind-address and rest\.port"):
        settle_rest_port(Configuration({"rest.bind-address": host, "rest.port": port}), any_port=True)


# names ----------------------------------------------------------------------------------------------------------


def test_a_name_that_nobody_chose_makes_way(short_directory: Path) -> None:
    config = Configuration({"io.tmp.dirs": str(short_directory)})
    assert unclaimed(config) == (config, [])
    files = ClusterFiles.of(config)
    assert files.claim()
    try:
        other, notes = unclaimed(config)
        assert other.to_dict()["cluster.id"] == "default-2"
        assert other.to_dict()["high-availability.storageDir"] == ".penstock/cluster-2"
        (note,) = notes
        assert note.startswith("a cluster 'default' runs here already: this one is 'default-2'; --address or")
        chosen = config.merged(Configuration({"cluster.id": "default"}))
        assert unclaimed(chosen) == (chosen, [])
    finally:
        files.release()


def test_a_claim_ends_with_its_process_and_survives_the_removal_of_its_directory(short_directory: Path) -> None:
    files, others = ClusterFiles(short_directory / "claimed"), ClusterFiles(short_directory / "claimed")
    assert files.claim()
    assert files.is_claimed()
    assert others.is_claimed()
    assert not others.claim()
    holder = "import sys; from pathlib import Path\n"
    holder += "from penstock.jobmanager.startup.cluster_state import ClusterFiles\n"
    holder += "print(ClusterFiles(Path(sys.argv[1])).claim())"
    command = [sys.executable, "-c", holder, str(files.directory)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    (files.directory / "lock").unlink()
    assert others.claim()
    others.release()
    files.release()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert not files.is_claimed()


def test_what_a_supervisor_wrote_is_void_without_it(short_directory: Path) -> None:
    files = ClusterFiles(short_directory / "written")
    assert files.claim()
    state = ClusterState(cluster_id="x", pid=os.getpid(), phase="running", rest_url="http://127.0.0.1:1")
    files.write(state)
    assert files.read() == state
    files.release()
    assert files.read() is None
    assert files.last() == state


# budgets --------------------------------------------------------------------------------------------------------


def test_each_failure_in_the_window_waits_longer_until_there_were_too_many() -> None:
    budget = RestartBudget(failures=4, window_ms=60_000)
    assert [budget.failed(now_ms) for now_ms in (0, 1_000, 2_000, 3_000)] == [500, 1_000, 2_000, 4_000]
    assert budget.failed(4_000) is None


def test_failures_that_are_long_ago_do_not_count() -> None:
    budget = RestartBudget(failures=2, window_ms=60_000)
    answers: list[Any] = [budget.failed(hour * 3_600_000) for hour in range(20)]
    assert answers == [500] * 20


def test_silence_is_answered_by_a_kill_and_then_by_a_restart() -> None:
    vigil = Vigil(silence_ms=1_000, patience_ms=5_000, now_ms=0)
    assert vigil.remedy(999) is Remedy.NONE
    assert vigil.remedy(1_000) is Remedy.KILL
    assert vigil.remedy(1_001) is Remedy.NONE
    assert vigil.remedy(6_000) is Remedy.RESTART
    assert vigil.remedy(6_001) is Remedy.NONE


def test_an_answer_calms_it() -> None:
    vigil = Vigil(silence_ms=1_000, patience_ms=5_000, now_ms=0)
    assert vigil.remedy(1_500) is Remedy.KILL
    vigil.answered(2_000)
    assert vigil.silent_ms(2_500) == 500
    assert vigil.remedy(2_999) is Remedy.NONE
    assert vigil.remedy(3_000) is Remedy.KILL
