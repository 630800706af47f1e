"""Where a pipeline runs, and its way there (`execution.target`).

    local       in this process (job_client.py)
    embedded    on a cluster of its own on this machine, which ends with this process
    remote      on the cluster at rest.address (--address, PENSTOCK_ADDRESS)
    auto        remote where an address is set, else embedded; but local if a connector works in this process only

Such connectors (`in_process = True`: penstock.testing's lists, a user's own) are refused on a cluster: their data would
be in another process.

A pipeline that was built here is sent as a graph. What it imports from its script's directory goes along to a remote
cluster as an archive (packaging.py), unless it is there already; an embedded one is told the directory.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..jobmanager.gateway import GraphRequest
from ..runtime.configuration import cluster_options, options
from ..runtime.configuration.config import Configuration
from ..runtime.graph.job_graph import JobGraph
from ..runtime.versions import own_versions
from ..state.errors import ConfigurationError, PipelineError
from ..state.serialization.pickling import dumps
from . import session
from .added_code import AddedCode
from .job_client import JobClient, announce
from .job_options import job_options
from .packaging import needs_modules_of, package_directory
from .printed import PrintedOutput
from .steps import Step

if TYPE_CHECKING:
    from ..jobmanager.startup.embedded_cluster import EmbeddedCluster
    from .remote_job import RemoteJob
    from .rest_client import RestClient

    Job = JobClient | RemoteJob

ARCHIVES = Path(".penstock") / "archives"
"""Where a job of this process has them unpacked, in its working directory."""
LOCAL, EMBEDDED, REMOTE, AUTO = "local", "embedded", "remote", "auto"

_embedded: EmbeddedCluster | None = None
_printed: PrintedOutput | None = None
"""By its slots."""


@dataclass(frozen=True, slots=True)
class Choice:
    target: str
    """LOCAL, EMBEDDED or REMOTE."""
    why: str
    """For the first line that is printed."""
    address: str | None = None


def choose(config: Configuration, bound_here: Sequence[str] = ()) -> Choice:
    """`bound_here`: names of the operators whose connectors work in this process only. PipelineError: those are not
    for a cluster; ConfigurationError: remote, and no address."""
    wanted, address = config.get(cluster_options.TARGET), config.get(cluster_options.ADDRESS)
    if wanted == AUTO and bound_here:
        return Choice(LOCAL, f"the connector of {_named(bound_here)} works in one process only")
    target = wanted if wanted != AUTO else REMOTE if address else EMBEDDED
    if target == LOCAL:
        return Choice(LOCAL, f"{cluster_options.TARGET.key} is local")
    refuse_for_cluster(bound_here)
    if target == EMBEDDED:
        return Choice(EMBEDDED, "no cluster is addressed")
    if not address:
        raise ConfigurationError(
            f"{cluster_options.TARGET.key} is remote, and no cluster is named: --address URL, PENSTOCK_ADDRESS or "
            f"{cluster_options.ADDRESS.key}"
        )
    return Choice(REMOTE, "", address)


def refuse_for_cluster(bound_here: Sequence[str]) -> None:
    if bound_here:
        raise PipelineError(
            f"the connector of {_named(bound_here)} works in one process only, and a cluster has several: run with "
            f"--local ({cluster_options.TARGET.key}: local), or use another connector"
        )


def refuse_paths_of_the_copy(steps: Sequence[Step], copy: Path) -> None:
    """A submitted script runs in a copy of its directory, which is gone when the job runs: a source would find nothing
    there, without an error. PipelineError for connectors whose `path` is in it."""
    for step in steps:
        path = getattr(step.source or step.sink, "path", None)
        if isinstance(path, str) and Path(path).is_relative_to(copy):
            raise PipelineError(
                f"'{step.name}' uses {os.path.relpath(path, copy)!r}, a path in the script's directory. On a cluster a "
                "script runs in a copy of that, which the job's processes do not have: give an absolute path that all "
                "nodes reach"
            )


def _named(operators: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in operators)


def bound_to_this_process(steps: Sequence[Step]) -> list[str]:
    """Names of the steps whose connectors work in this process only."""
    return [step.name for step in steps if any(getattr(it, "in_process", False) for it in (step.source, step.sink))]


def start_job(graph: JobGraph, config: Configuration, bound_here: Sequence[str], code: AddedCode) -> Job:
    """Says where the job runs, and takes it there. A local job is not run yet."""
    session.submitted = True
    choice = choose(config, bound_here)
    if choice.target == LOCAL:
        for note in code.place_archives(Path.cwd(), Path.cwd() / ARCHIVES):
            session.say(f"note: {note}")
        return JobClient(graph, config, choice.why)
    from .rest_client import RestClient  # a quarter of a second that local jobs do without

    if choice.target == REMOTE:
        client = RestClient(choice.address or "")
        client.overview()  # whether anybody answers there
        announce(graph, config, f"goes to the cluster at {client.address}")
        return _submit(client, graph, config, code, None)
    session.say(f"job '{graph.job_name}' runs on a cluster that is started here ({choice.why})")
    cluster = embedded_cluster(config)
    client = RestClient(cluster.address)
    announce(graph, config, f"runs on this cluster: {client.address}")
    return _submit(client, graph, _absolute(config), code, _printed)


def embedded_cluster(config: Configuration) -> EmbeddedCluster:
    """That of this process; it is started for the first job, and ends with the process."""
    global _embedded, _printed
    from ..jobmanager.startup.embedded_cluster import EmbeddedCluster

    if _embedded is None:
        own = Configuration({cluster_options.RESUME_JOBS.key: False})  # the script says with -s what goes on
        _embedded = EmbeddedCluster.start(own.merged(config), tell=session.say)
        _printed = PrintedOutput(_embedded.directory)
        for note in _embedded.notes:
            session.say(f"note: {note}")
    return _embedded


def _submit(
    client: RestClient, graph: JobGraph, config: Configuration, code: AddedCode, printed: PrintedOutput | None
) -> RemoteJob:
    """`printed`: the cluster is this process's own, and can import from the directories of this machine."""
    from .remote_job import RemoteJob

    here, directory = printed is not None, _script_directory()
    accepted = client.submit(
        GraphRequest(
            job_name=graph.job_name,
            graph=dumps(graph),
            config=job_options(config),
            versions=own_versions(),
            artefacts=() if here else (*_code(client, directory), *_added(client, code)),
            python_path=(str(directory), *code.path_entries()) if here else (),
            requirements=code.requirements_here() if here else code.requirements_elsewhere(),
            archives=code.archives() if here else code.archives_sent(),
        )
    )
    for note in accepted.notes:
        if note not in config.notes:
            session.say(f"note: {note}")
    session.say(f"{'continuing' if accepted.continued else 'submitted'} job {accepted.job_id}")
    return RemoteJob(client, accepted, printed)


def _absolute(config: Configuration) -> Configuration:
    """The cluster's processes have other working directories."""
    places = {option.key: config.get(option) for option in (options.CHECKPOINTS_DIR, options.SAVEPOINTS_DIR)}
    here = {key: str(Path(place).absolute()) for key, place in places.items() if place and ":/" not in place}
    return config.merged(Configuration(here))


def _script() -> Path | None:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and Path(file).is_file() else None


def _script_directory() -> Path:
    """What Python imports the script's modules from; the working directory where there is no script."""
    script = _script()
    return Path.cwd() if script is None else script.parent


def _code(client: RestClient, directory: Path) -> tuple[str, ...]:
    if not needs_modules_of(directory, _script()):
        return ()
    return (send_directory(client, directory),)


def _added(client: RestClient, code: AddedCode) -> tuple[str, ...]:
    if not code:
        return ()
    with tempfile.TemporaryDirectory(prefix="penstock-added-") as scratch:
        directory = Path(scratch) / "added"
        directory.mkdir()
        code.copy_to(directory)
        return (send_directory(client, directory),)


def send_directory(
    client: RestClient, directory: Path, *, import_from: Path | None = None, add: Sequence[Path] = ()
) -> str:
    """The id of the directory's code on the cluster; it is uploaded unless it is there already."""
    limit = Configuration().get(cluster_options.UPLOAD_LIMIT)
    with tempfile.TemporaryDirectory(prefix="penstock-package-") as scratch:
        package = package_directory(
            directory, Path(scratch) / "code.zip", limit_bytes=limit, import_from=import_from, add=add
        )
        known = [artefact for artefact in client.artefacts() if artefact.startswith(f"{package.sha256}_")]
        return known[0] if known else client.upload(package.file, package.name)


def user_name() -> str:
    """Who asks, for the cluster's logs."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
