"""Training jobs: fine-tuning, pre-training, evaluations."""

import os
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.empty_pb2 import Empty

from tasuki import errors, jobfile, names, v1
from tasuki.connection import Connection
from tasuki.jobfile import Job
from tasuki.progress import Meter, Progress
from tasuki.transport import Answer, Method, Request

_SERVICE = "/tasuki.v1.TrainingService/"
CREATE = Method(_SERVICE + "CreateTrainingJob", v1.CreateTrainingJobRequest, v1.TrainingJob)
GET = Method(_SERVICE + "GetTrainingJob", v1.GetTrainingJobRequest, v1.TrainingJob)
LIST = Method(_SERVICE + "ListTrainingJobs", v1.ListTrainingJobsRequest, v1.ListTrainingJobsResponse)
WATCH = Method(_SERVICE + "WatchTrainingJob", v1.WatchTrainingJobRequest, v1.WatchTrainingJobResponse)
CANCEL = Method(_SERVICE + "CancelTrainingJob", v1.CancelTrainingJobRequest, v1.TrainingJob)
PAUSE = Method(_SERVICE + "PauseTrainingJob", v1.PauseTrainingJobRequest, v1.TrainingJob)
RESUME = Method(_SERVICE + "ResumeTrainingJob", v1.ResumeTrainingJobRequest, v1.TrainingJob)
FINISH = Method(_SERVICE + "FinishTrainingJob", v1.FinishTrainingJobRequest, v1.TrainingJob)
RETRY = Method(_SERVICE + "RetryTrainingJob", v1.RetryTrainingJobRequest, v1.TrainingJob)
LOG = Method(_SERVICE + "GetTrainingJobLog", v1.GetTrainingJobLogRequest, v1.GetTrainingJobLogResponse)
DELETE = Method(_SERVICE + "DeleteTrainingJob", v1.DeleteTrainingJobRequest, Empty)
ESTIMATE = Method(_SERVICE + "EstimateTrainingJob", v1.EstimateTrainingJobRequest, v1.EstimateTrainingJobResponse)
PREDICTIONS = Method(_SERVICE + "DownloadPredictions", v1.DownloadPredictionsRequest, v1.DownloadPredictionsResponse)

Lines: TypeAlias = list[str]  # within the class, `list` is its method


class Jobs:
    """The part of a client that has training jobs. Names: `nightly` or `trainingJobs/nightly`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(
        self,
        /,
        job: Job,
        *,
        id: str = "",
        variables: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> v1.TrainingJob:
        """Checks a job as a whole and queues it.

        Args:
            job: a `v1.TrainingJob`, a mapping of its fields (`{"model": "reviews", "fine_tuning": {…}}`), or the path of
                a YAML file of them. Datasets and models may have their short names.
            id: of the job; made by the server by default.
            variables: what `${NAME}` stands for in a YAML file; else it is taken from the environment.
            timeout: seconds; 30 by default.
            fields: further fields of `v1.CreateTrainingJobRequest`, such as `validate_only=True`.

        Returns:
            The job with every default filled in.

        Raises:
            ValueError: what is in the mapping or file is not a job.
            Error: InvalidArgument with all faults at once, in `field_faults`; AlreadyExists (the id is taken).
        """
        fields.setdefault("request_id", str(uuid.uuid4()))  # a repeated attempt cannot create a second job
        request = v1.CreateTrainingJobRequest(training_job=jobfile.read(job, variables), training_job_id=id, **fields)
        return await self._connection.call(CREATE, request, timeout)

    async def estimate(
        self, /, job: Job, *, variables: Mapping[str, str] | None = None, timeout: float | None = None, **fields: Any
    ) -> v1.EstimateTrainingJobResponse:
        """What a job would need: steps and tokens, memory and time, measured by a few of its steps; nothing is stored.
        Takes seconds to minutes; `timeout` is 20 minutes by default. Errors are those of `create`, those that the job
        would end with, and ResourceExhausted while another estimate is made."""
        request = v1.EstimateTrainingJobRequest(training_job=jobfile.read(job, variables), **fields)
        return await self._connection.call(ESTIMATE, request, self._connection.timeouts.report if timeout is None else timeout)

    async def get(self, name: str, *, timeout: float | None = None) -> v1.TrainingJob:
        """Raises NotFound."""
        return await self._named(GET, name, timeout)

    async def list(
        self,
        /,
        *,
        states: Iterable["v1.TrainingJob.State | str"] = (),
        limit: int | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> AsyncIterator[v1.TrainingJob]:
        """All jobs, or the newest `limit`, newest first; those in one of `states`, such as "RUNNING", if any is given."""
        request = v1.ListTrainingJobsRequest(states=states, **fields)
        async for job in self._connection.rows(LIST, request, "training_jobs", limit, timeout):
            yield job

    async def cancel(self, name: str, *, timeout: float | None = None) -> v1.TrainingJob:
        """Asks a job to end: CANCELLED, or CANCELLING until its trainer has stopped. One that has ended is answered as it
        is."""
        return await self._named(CANCEL, name, timeout)

    async def pause(self, name: str, *, timeout: float | None = None) -> v1.TrainingJob:
        """Asks a job to write a checkpoint, free its memory and wait. Raises FailedPrecondition if it has ended."""
        return await self._named(PAUSE, name, timeout)

    async def resume(self, name: str, *, timeout: float | None = None) -> v1.TrainingJob:
        """Queues a paused job again. Raises FailedPrecondition if it has ended, or is not PAUSED yet."""
        return await self._named(RESUME, name, timeout)

    async def finish(self, name: str, *, timeout: float | None = None) -> v1.TrainingJob:
        """Asks a job to stop training now and to publish the best so far. Raises FailedPrecondition if it has ended."""
        return await self._named(FINISH, name, timeout)

    async def retry(self, name: str, *, timeout: float | None = None) -> v1.TrainingJob:
        """Queues a FAILED job again, which goes on from its newest checkpoint. Raises FailedPrecondition in any state but
        FAILED, QUEUED and RUNNING."""
        return await self._named(RETRY, name, timeout)

    async def log(self, name: str, *, line_count: int = 0, timeout: float | None = None) -> Lines:
        """The last lines that the job's trainers printed, oldest first; 100 by default."""
        return list((await self._named(LOG, name, timeout, line_count=line_count)).lines)

    async def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes an ended job with its events, log and checkpoints; what it published stays. Raises FailedPrecondition
        while it has not ended."""
        await self._connection.delete(DELETE, v1.DeleteTrainingJobRequest(name=names.job(name)), timeout)

    async def watch(
        self, /, name: str, *, from_sequence: int = 1, timeout: float | None = None, **fields: Any
    ) -> AsyncIterator[v1.TrainingJobEvent]:
        """A job's events from `from_sequence` on, in order and each exactly once, until the job has ended. When the
        connection is lost it goes on from the last event + 1, for as long as a server answers within two minutes
        (`Timeouts.patience`). `timeout`: seconds for the whole watch; none by default. Raises NotFound,
        Unavailable (no server answered for too long), DeadlineExceeded, DataLoss (the server left out an event)."""
        connection = self._connection
        retries = connection.options.retries
        request = v1.WatchTrainingJobRequest(name=names.job(name), from_sequence=max(from_sequence, 1), **fields)
        deadline = None if timeout is None else time.monotonic() + timeout
        lost_since: float | None = None
        backoff = retries.first_backoff
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            answers: Any = connection.transport.receive(WATCH, request, left, connection.options.call_metadata())
            try:
                async for answer in answers:
                    event = answer.event
                    if event.sequence < request.from_sequence:
                        continue
                    if event.sequence > request.from_sequence:
                        fault = (
                            f"the server sent event {event.sequence} of {request.name} where {request.from_sequence} was to come"
                        )
                        raise errors.make(errors.DataLoss, fault, WATCH.path)
                    request.from_sequence = event.sequence + 1
                    lost_since, backoff = None, retries.first_backoff
                    yield event
                return
            except errors.Unavailable as error:
                await connection.wait_after(error)
                lost_since = time.monotonic() if lost_since is None else lost_since
                if time.monotonic() - lost_since >= connection.timeouts.patience:
                    raise
            finally:
                await answers.aclose()  # whoever leaves early ends the call
            await connection.pause(backoff)
            backoff = min(2 * backoff, retries.max_backoff)

    async def wait(
        self, name: str, *, progress: Progress = False, timeout: float | None = None, check: bool = True
    ) -> v1.TrainingJob:
        """Waits until a job has ended, and returns it as it ended.

        Args:
            name: of the job.
            progress: True for a bar, or a function that is told how many steps are done and of how many.
            timeout: seconds; none by default.
            check: whether a job that ended otherwise than SUCCEEDED is an error.

        Raises:
            JobError: the job FAILED or was CANCELLED; it has the job and why.
            Error: those of `watch`; DeadlineExceeded leaves the job as it is.
        """
        # What lies behind a job that runs already is not told again.
        job = await self.get(name)
        begin = job.last_sequence or 1
        show = {v1.Progress.TRAINING: "training", v1.Progress.EVALUATING: "evaluating"}
        with Meter(progress, job.name.partition("/")[2], "step") as meter:
            events: Any = self.watch(job.name, from_sequence=begin, timeout=timeout)
            try:
                async for event in events:
                    if event.HasField("progress"):
                        now = event.progress
                        loss = f", loss {now.loss:.4f}" if now.loss else ""
                        meter.show(
                            now.step,
                            now.total_steps or None,
                            show.get(now.phase, v1.Progress.Phase.Name(now.phase).lower()) + loss,
                        )
                    elif event.HasField("state_changed"):
                        meter.remark(v1.TrainingJob.State.Name(event.state_changed.state))
            finally:
                await events.aclose()
        job = await self.get(name)
        if check and job.state != v1.TrainingJob.SUCCEEDED:
            raise errors.JobError(job)
        return job

    async def download_predictions(
        self, name: str, file: str | os.PathLike[str], *, progress: Progress = False, timeout: float | None = None
    ) -> Path:
        """Writes the answers that an evaluation with `write_predictions` gave, as JSON Lines, and returns the file, which
        is there whole or not at all: `{"task", "row", "label", "predicted", "probabilities", "truncated"}`. Raises
        OSError if it cannot be written, FailedPrecondition if the job has none, DataLoss if bytes are missing."""
        connection = self._connection
        target = Path(file)
        beside = target.with_name(f"{target.name}.partial-{uuid.uuid4()}")
        request = v1.DownloadPredictionsRequest(name=names.job(name))

        async def attempt(left: float) -> None:
            done = total = 0
            with open(beside, "wb") as output:
                async for part in connection.transport.receive(PREDICTIONS, request, left, connection.options.call_metadata()):
                    await connection.transport.aside(output.write, part.chunk)
                    done, total = done + len(part.chunk), part.size_bytes
                    meter.show(done, total)
            if done != total:
                fault = f"the server sent {done} bytes of {total}; nothing was kept, try again"
                raise errors.make(errors.DataLoss, fault, PREDICTIONS.path)

        try:
            with Meter(progress, "downloading", "B") as meter:
                await connection.repeat(attempt, connection.timeouts.transfer if timeout is None else timeout)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
        return target

    async def _named(self, method: Method[Request, Answer], name: str, timeout: float | None, **fields: Any) -> Answer:
        return await self._connection.call(method, method.request(name=names.job(name), **fields), timeout)
