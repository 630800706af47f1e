"""The view of a job whose master has not read its graph: it is being loaded, or could not be."""

from __future__ import annotations

from ...runtime.configuration import options
from ...runtime.configuration.config import Configuration
from ...runtime.configuration.masking import masked
from ...runtime.tracebacks import qualified_name, user_traceback
from ...state.store.cluster_store import JobSubmission
from ..job_states import JobState
from ..views import NEVER, CheckpointsView, ExceptionView, JobOverview, JobView


def created(submission: JobSubmission) -> JobOverview:
    """Of a job that no master has spoken of yet."""
    return _overview(submission, JobState.CREATED, NEVER)


def loading(submission: JobSubmission, overview: JobOverview) -> JobView:
    """Nothing but what the submission says, in the state that was last heard of."""
    return _view(submission, overview, ())


def failed_to_load(submission: JobSubmission, error: Exception, now_ms: int) -> JobView:
    failure = ExceptionView(
        timestamp_ms=now_ms,
        exception=qualified_name(error),
        message=f"the job could not be loaded in the process of its master: {error}",
        stacktrace=user_traceback(error),
    )
    return _view(submission, _overview(submission, JobState.FAILED, now_ms), (failure,))


def without_master(submission: JobSubmission, state: JobState, now_ms: int) -> JobView:
    """Of which no master lived to tell more: it was brought to its end, or interrupted, and nobody takes it up."""
    return _view(submission, _overview(submission, state, now_ms), ())


def _overview(submission: JobSubmission, state: JobState, ended_ms: int) -> JobOverview:
    return JobOverview(
        id=submission.job_id,
        name=submission.job_name,
        state=state.value,
        started_ms=submission.created_at_ms,
        ended_ms=ended_ms,
        modified_ms=max(submission.created_at_ms, ended_ms),
        bounded=False,
        subtask_states={},
    )


def _view(submission: JobSubmission, overview: JobOverview, exceptions: tuple[ExceptionView, ...]) -> JobView:
    config = Configuration.from_dict(submission.config)
    return JobView(
        overview=overview,
        attempt=0,
        generation=0,
        restarts=0,
        max_parallelism=config.get(options.MAX_PARALLELISM),
        timestamps={JobState.CREATED.value: submission.created_at_ms, overview.state: overview.modified_ms},
        vertices=(),
        edges=(),
        checkpoints=CheckpointsView(),
        checkpoint_config=None,
        exceptions=exceptions,
        config=masked(submission.config),
    )
