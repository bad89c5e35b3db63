"""What a controller takes for a loss, which another start may mend, and what for an error."""

import asyncio

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from cluster.run.controller import lost
from cluster.services.media import AsyncMedia
from learners.group.answers import LearnerLost
from o3rl.media.decoder import MediaError, MediaLost, MediaUnready
from o3rl.ray_calls import in_a_line
from o3rl.types import Failure, FailureKind, Row, Task, Truth


def of_task(cause: Exception) -> Exception:
    """As Ray raises what a task has raised: an error of both types."""
    error = RayTaskError("f", "Traceback\n  of another process", cause)
    return error.as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (LearnerLost("rank 1 died"), "the learner was lost"),
        (MediaLost("no answer"), "the media were lost"),
        (of_task(MediaLost("no answer")), "the media were lost"),
        (TimeoutError("weight store: no answer"), "a service did not answer"),
        (of_task(TimeoutError("weight store: no answer")), "a service did not answer"),
        (ActorDiedError(), "a service was lost"),
        (of_task(ValueError("a bad model")), ""),
        (ValueError("a bad row"), ""),
        (OSError("no space left"), ""),
    ],
    ids=str,
)
def test_losses(error, what):
    assert lost(error, trained=True) == what


def test_what_never_started_is_no_loss():
    assert lost(TimeoutError("no room for 8 learner ranks"), trained=False) == ""
    assert lost(LearnerLost("rank 1 died"), trained=False)


def test_the_line_is_the_error_s_own():
    assert in_a_line(of_task(TimeoutError("no answer\nto put"))) == "no answer to put"


class Media:
    """Reads nothing: raises `error`."""

    def __init__(self, error: Exception):
        self.error = error

    def prepare(self, row, *, training):
        del row, training
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MediaError("v.mp4", "no video"), FailureKind.FILE),
        (TimeoutError("v.mp4: late"), FailureKind.SERVICE),
        (MediaUnready("media: no room for the frames of v.mp4"), FailureKind.SERVICE),
    ],
)
def test_a_failure_says_whose_fault_it_is(error, kind):
    row = Row("r", Task.MCQ, "s", "q", "v.mp4", Truth("A"))
    found = asyncio.run(AsyncMedia(Media(error)).prepare(row, training=True))
    assert isinstance(found, Failure)
    assert found.kind is kind


def test_the_media_actor_s_own_silence_is_not():
    row = Row("r", Task.MCQ, "s", "q", "v.mp4", Truth("A"))
    with pytest.raises(MediaLost):
        asyncio.run(AsyncMedia(Media(MediaLost("no answer"))).prepare(row, training=True))
