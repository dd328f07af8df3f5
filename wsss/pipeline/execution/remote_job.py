"""A job on a cluster: its page, how to stop it, and what to say of one that failed."""

from dataclasses import dataclass
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from wsss.common import compat
from wsss.common.errors import UserError, one_line


@dataclass(frozen=True)
class RemoteJob:
    """A job that was handed to a cluster.

    Attributes:
        id: that the cluster gave it.
        page: address of the page that shows it; empty where not known.
        stop_command: that stops it; empty where not known.
    """

    id: str
    page: str = ""
    stop_command: str = ""

    @classmethod
    def of(cls, result: Any, options: PipelineOptions) -> "RemoteJob":
        """The job of a `PipelineResult` of Dataflow or of a portable runner."""
        found = getattr(result, "job_id", None)
        if not callable(found):
            return cls(compat.job_id_of(result))
        job_id, cloud = found(), options.view_as(GoogleCloudOptions)
        return cls(
            job_id,
            f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job_id}?project={cloud.project}",
            f"gcloud dataflow jobs cancel {job_id} --project={cloud.project} --region={cloud.region}",
        )

    def cancel(self, result: Any) -> None:
        """Asks the cluster to stop the job.

        Raises:
            UserError: it does not; the message names the command that does.
        """
        try:
            result.cancel()
        except Exception as error:  # of the network, the cluster or the client library
            remedy = f"Stop it by `{self.stop_command}`." if self.stop_command else "Stop it on the cluster."
            raise UserError(
                f"The job {self.id} could not be canceled ({_last_line(error)}). {remedy}"
            ) from error

    def failure(self, cause: BaseException) -> UserError:
        """The error of a job that failed for a cause, in one line."""
        reason = (one_line(cause) or _last_line(cause)).rstrip(".")
        reason = reason.removeprefix(f"Pipeline {self.id} failed in state FAILED: ")
        page = f" See {self.page}." if self.page else ""
        return UserError(f"The job {self.id} failed: {reason}.{page}")


def _last_line(error: BaseException) -> str:
    """What an exception says last, which is the error itself where it quotes a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
