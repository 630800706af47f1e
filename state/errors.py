"""Every error penstock raises on purpose.

An error says what happened, where (job, operator, subtask, split, offset) and what to do, in one sentence or
two. `PenstockError` subclasses that the user can act on are printed without a traceback of ours.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(PenstockError):
    """An option is unknown, malformed or impossible together with another one."""


class PipelineError(PenstockError):
    """The pipeline cannot run as written; raised while it is built or submitted. Names the operator."""


class RecordTypeError(PenstockError):
    """A record is not of its stream's declared type."""


class KeyTypeError(PenstockError):
    """A key is of a type that cannot be a key, or of another type than the stream's first key."""


class StateError(PenstockError):
    """Keyed or operator state was used in a way that cannot work (same name with two types, no key, ...)."""


class IncompatibleStateError(StateError):
    """State in a snapshot does not fit the descriptor it is restored into."""


class MalformedRecordError(PenstockError):
    """A record of the input cannot be read; names file and line, or split and offset."""


class ObjectStoreError(PenstockError):
    """Base of what an object store answers instead of a result."""


class ObjectNotFound(ObjectStoreError):
    """No object has that name."""


class ObjectAlreadyExists(ObjectStoreError):
    """A create-only put met an object (perhaps our own, PROTOCOLS 3)."""


class ObjectStoreUnavailable(ObjectStoreError):
    """The store failed or did not answer; the operation may or may not have taken effect."""


class ObjectStoreNotServing(ObjectStoreUnavailable):
    """The store itself answered that it cannot do that now: it is overloaded, fails, or is full. As far as it says,
    nobody else gets a better answer."""


class ObjectStoreDenied(ObjectStoreError):
    """The store refuses (permissions, read-only, bad credentials); trying again is useless."""


class CheckpointError(PenstockError):
    """A checkpoint cannot be taken, found or read."""


class DamagedCheckpointError(CheckpointError):
    """An object of a checkpoint is missing, truncated or does not match its checksum. Names the object."""


class LocalStateError(PenstockError):
    """This machine's disk does not take files of state: it is full, say. Names the operator and the directory."""


class BrokenStateError(LocalStateError):
    """A database of state cannot go on, and does not recover by itself: the attempt must fail, and the next one opens a
    new database from the last checkpoint."""


class ProtocolError(PenstockError):
    """An invariant of the engine is broken: a bug of penstock. Carries ids and values."""


class DeposedError(PenstockError):
    """Another master leads this job now; this one must stop (PROTOCOLS 1)."""


class ConnectionLostError(PenstockError):
    """The connection between two slots broke: frames may be lost, so both ends fail their attempt."""


class UserCodeError(PenstockError):
    """A user's function raised. Carries operator and subtask; the cause is the user's own exception."""

    def __init__(self, message: str, *, operator: str, subtask: int) -> None:
        super().__init__(message)
        self.operator = operator
        self.subtask = subtask


class JobFailedError(PenstockError):
    """The job ended in FAILED: its restart strategy gave up. The cause is the last failure."""


class AggregateError(PenstockError):
    """An aggregate cannot hold its result, or its column has nothing to aggregate. Names the column."""
