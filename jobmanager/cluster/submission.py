"""From what a client sends to a job in the cluster's store: code is taken, pipelines are captured, jobs identified.

A script is run in a process of its own (capture.py), in a directory of its own that holds the artefact, so nothing it
does harms the job manager: it may fail, print, hang, exit. What it leaves is the job graph, which only the processes of
that job ever unpickle. A graph that a client has built itself comes ready.

    prepare_run, prepare_graph    slow, for many clients at once: capture, version checks, and whether the job can go on
                                  from what it is to restore (restore_process.py)
    record                        under `lock`: identity (identity.py), then the record: from here on the job exists

What a client sent wrongly is a RefusedError that says what to do.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime.configuration import cluster_options, options
from ...runtime.configuration.config import Configuration
from ...runtime.directories import CODE
from ...runtime.versions import differences, own_versions
from ...state.errors import CheckpointError, ConfigurationError, ObjectNotFound, PenstockError
from ...state.ids import JobId, new_nonce
from ...state.snapshots import CheckpointMetadata
from ...state.store import artefacts
from ...state.store.cluster_store import JobSubmission, forget, list_records, put_job
from ...state.store.located_objects import LocatedObjects
from ...state.store.objects import ObjectStore, run_program
from ...state.store.obstore_objects import ObstoreObjects
from ...taskmanager.processes.user_code import UserCode, install, unpack, unpacked_archives
from ..gateway import ArtefactView, Captured, GraphRequest, RefusedError, RunRequest, UnknownError
from ..identity import identify, restored_metadata
from .capture import CaptureOutcome, CaptureRequest, run_capture
from .restore_process import Checked, check_aside

MAX_CAPTURES = 2
"""Scripts that are captured at once: each is a process."""
_JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pipeline that can become a job."""

    job_name: str
    graph: bytes
    config: Configuration
    storage: str
    notes: tuple[str, ...]
    artefacts: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    archives: tuple[tuple[str, str], ...] = ()
    job_id: JobId | None = None

    @property
    def duplicate_name_allowed(self) -> bool:
        return self.config.get(options.DUPLICATE_NAMES)


class Submissions:
    """Methods may be called from many threads."""

    def __init__(self, config: Configuration, storage: str, objects: ObjectStore, directory: Path) -> None:
        """`storage`: of the cluster, and of jobs that name none. `directory`: for what is unpacked and installed."""
        self._config = config
        self._storage = storage
        self._objects = objects
        self._directory = directory
        self._capturing = threading.BoundedSemaphore(MAX_CAPTURES)
        self.lock = threading.Lock()
        """Held from the look whether a name is free to the record of the job."""

    # code

    def artefacts(self) -> list[ArtefactView]:
        return [
            ArtefactView(found.id, found.name, found.uploaded_ms, found.size_bytes, found.entry)
            for found in run_program(artefacts.list_artefacts(), self._objects)
        ]

    def upload(self, name: str, file: Path) -> ArtefactView:
        entry = _entry(name, file)
        found = run_program(artefacts.put_artefact(name, file, entry, _now_ms()), self._objects)
        return ArtefactView(found.id, found.name, found.uploaded_ms, found.size_bytes, found.entry)

    def delete_artefact(self, artefact_id: str) -> None:
        self._require(artefact_id)
        run_program(artefacts.delete_artefact(artefact_id), self._objects)

    def _require(self, artefact_id: str) -> ArtefactView:
        found = next((view for view in self.artefacts() if view.id == artefact_id), None)
        if found is None:
            raise UnknownError(f"there is no artefact {artefact_id}: upload it first")
        return found

    # pipelines

    def capture(self, request: RunRequest) -> Captured:
        outcome, _ = self._captured(request, describe_only=True)
        return Captured(outcome.job_name, outcome.plan, outcome.description)

    def prepare_run(self, request: RunRequest) -> Prepared:
        if request.job_id is not None and _JOB_ID.fullmatch(request.job_id) is None:
            raise RefusedError(f"a job id is 32 hexadecimal digits, not {request.job_id!r}")
        outcome, requirements = self._captured(request)
        assert outcome.graph is not None, "an outcome without an error has a graph"
        config = Configuration.from_dict(outcome.config)
        prepared = Prepared(
            job_name=outcome.job_name,
            graph=outcome.graph,
            config=config,
            storage=self._storage_of(config),
            notes=(*differences(request.versions, own_versions()).warnings, *outcome.notes),
            artefacts=(request.artefact,),
            python_path=outcome.python_path,
            requirements=(*requirements, *outcome.requirements),
            archives=outcome.archives,
            job_id=None if request.job_id is None else JobId(request.job_id),
        )
        return self._with_checked_restore(prepared)

    def prepare_graph(self, request: GraphRequest) -> Prepared:
        warnings = _check_versions(request.versions)
        for artefact in request.artefacts:
            self._require(artefact)
        try:
            config = Configuration.from_dict(request.config)
        except ConfigurationError as error:
            raise RefusedError(str(error)) from None
        prepared = Prepared(
            job_name=request.job_name,
            graph=request.graph,
            config=config,
            storage=self._storage_of(config),
            notes=(*warnings, *config.notes),
            artefacts=request.artefacts,
            python_path=request.python_path,
            requirements=request.requirements,
            archives=request.archives,
        )
        return self._with_checked_restore(prepared)

    def _captured(self, request: RunRequest, describe_only: bool = False) -> tuple[CaptureOutcome, tuple[str, ...]]:
        _check_versions(request.versions)
        entry = request.entry or self._require(request.artefact).entry
        if entry is None:
            raise RefusedError(f"artefact {request.artefact} holds several scripts: name the one to run (entryClass)")
        with self._capturing, tempfile.TemporaryDirectory(dir=self._directory, prefix="capture-") as name:
            directory = Path(name)
            self._unpack(request.artefact, directory)
            script = (directory / entry).resolve()
            if not script.is_relative_to(directory.resolve()) or not script.is_file():
                raise RefusedError(f"there is no script {entry} in artefact {request.artefact}")
            requirements = _requirements(directory, request.requirements)
            code = UserCode(requirements=requirements)
            outcome = run_capture(
                CaptureRequest(
                    script=str(script),
                    arguments=request.arguments,
                    flags=_flags(request),
                    python_path=tuple(install(code, self._directory / CODE, files=directory)),
                    describe_only=describe_only,
                ),
                directory,
                self._config.get(cluster_options.CAPTURE_TIMEOUT),
            )
        if outcome.error is not None:
            raise RefusedError("\n".join(filter(None, (outcome.error, outcome.traceback.rstrip()))))
        return outcome, requirements

    def _unpack(self, artefact_id: str, directory: Path) -> None:
        try:
            unpack(artefact_id, self._objects, directory)
        except ObjectNotFound:
            raise UnknownError(f"there is no artefact {artefact_id}: upload it first") from None

    def _storage_of(self, config: Configuration) -> str:
        """Where the job's log and checkpoints go. Refused where it cannot work, and where savepoints could not go."""
        for option in (options.CHECKPOINTS_DIR, options.SAVEPOINTS_DIR):
            _refuse_relative(option.key, config.get(option))
        chosen = config.get(options.CHECKPOINTS_DIR)
        if chosen is None:
            return self._storage
        try:
            ObstoreObjects(chosen, {**self._config.to_dict(), **config.to_dict()}).probe()
        except ConfigurationError as error:
            raise RefusedError(str(error)) from None
        return chosen

    def _with_checked_restore(self, prepared: Prepared) -> Prepared:
        """With what its user should know of what is restored. RefusedError: it cannot go on from that; what is damaged
        or missing is an error of its own."""
        if prepared.config.get(options.RESTORE) is None:
            return prepared
        try:
            metadata = restored_metadata(prepared.job_name, prepared.config, self._store_of(prepared), prepared.storage)
        except (CheckpointError, ConfigurationError) as error:
            raise RefusedError(str(error)) from None
        if metadata is None:
            return prepared
        checked = self._check(prepared, metadata)
        if checked.refusal is not None:
            raise RefusedError(checked.refusal)
        return replace(prepared, notes=(*prepared.notes, *checked.notes))

    def _check(self, prepared: Prepared, metadata: CheckpointMetadata) -> Checked:
        code = UserCode(
            prepared.artefacts, self._storage, prepared.python_path, prepared.requirements, prepared.archives
        )
        directory, timeout_ms = self._directory / CODE, self._config.get(cluster_options.CAPTURE_TIMEOUT)
        try:
            python_path = install(code, directory, self._config.to_dict())
            archives = unpacked_archives(code, directory) if code.archives else None
        except (PenstockError, OSError) as error:  # its master will meet it, too, and tell
            return Checked(notes=(f"what is restored is not compared before the start: {error}",))
        with self._capturing:
            return check_aside(prepared.graph, metadata, prepared.config, python_path, archives, timeout_ms)

    def _store_of(self, prepared: Prepared) -> ObjectStore:
        config = {**self._config.to_dict(), **prepared.config.to_dict()}
        root = ObstoreObjects(prepared.storage, config)
        return LocatedObjects(root, lambda location: ObstoreObjects(location, config))

    # jobs

    def record(self, prepared: Prepared, continuing: Callable[[JobId], None]) -> tuple[JobSubmission, bool]:
        """The job exists from here on. Also: whether it is an earlier one that goes on: `continuing` is asked first
        then, and raises if that must not be. Hold `lock`."""
        config, store = prepared.config, self._store_of(prepared)
        try:
            identity = identify(prepared.job_name, config, store, prepared.storage, prepared.job_id)
        except PenstockError as error:
            raise RefusedError(str(error)) from None
        submission = JobSubmission(
            job_id=identity.job_id,
            job_name=prepared.job_name,
            created_at_ms=_now_ms(),
            storage=prepared.storage,
            config=config.to_dict(),
            restore=identity.origin,
            artefacts=prepared.artefacts,
            python_path=prepared.python_path,
            requirements=prepared.requirements,
            archives=prepared.archives,
            continues=identity.generation,
        )
        if identity.continued:
            continuing(identity.job_id)
            self._forget_ending(identity.job_id)
        run_program(put_job(submission, prepared.graph, new_nonce), self._objects)
        return submission, identity.continued

    def _forget_ending(self, job_id: JobId) -> None:
        """A job that was stopped goes on: its ending must not be found any more."""
        for submission in run_program(list_records(), self._objects):
            if submission.job_id == job_id:
                run_program(forget(submission), self._objects)


def _refuse_relative(key: str, directory: str | None) -> None:
    if directory is not None and "://" not in directory and not Path(directory).is_absolute():
        raise RefusedError(
            f"the directory {directory!r} is relative, and a cluster's processes have no working directory in common: "
            f"give an absolute path or a URL ({key})"
        )


def _check_versions(versions: dict[str, str]) -> tuple[str, ...]:
    """What may differ, as notes. RefusedError for what may not."""
    found = differences(versions, own_versions())
    if found.errors:
        raise RefusedError("client and cluster do not fit together: " + "; ".join(found.errors))
    return found.warnings


def _flags(request: RunRequest) -> dict[str, str]:
    flags = dict(request.config)
    if request.parallelism is not None:
        flags[options.PARALLELISM.key] = str(request.parallelism)
    if request.restore is not None:
        flags[options.RESTORE.key] = request.restore
    if request.allow_non_restored:
        flags[options.ALLOW_NON_RESTORED.key] = "true"
    try:
        Configuration(flags)
    except ConfigurationError as error:
        raise RefusedError(str(error)) from None
    return flags


def _requirements(directory: Path, name: str | None) -> tuple[str, ...]:
    """Lines of the requirements file; paths in it are relative to the artefact."""
    if name is None:
        return ()
    file = (directory / name).resolve()
    if not file.is_relative_to(directory.resolve()) or not file.is_file():
        raise RefusedError(f"there is no requirements file {name} in the artefact")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return tuple(line for line in lines if line and not line.startswith("#"))


def _entry(name: str, file: Path) -> str | None:
    """The script of an upload: itself, or the only one at the top of an archive. RefusedError for what is neither."""
    if name.endswith(".py"):
        return name
    if not zipfile.is_zipfile(file):
        raise RefusedError(f"{name} is neither a Python file nor a zip archive")
    with zipfile.ZipFile(file) as archive:
        scripts = [entry for entry in archive.namelist() if entry.endswith(".py") and "/" not in entry]
    return "main.py" if "main.py" in scripts else scripts[0] if len(scripts) == 1 else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
