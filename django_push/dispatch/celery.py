"""Jobs as Celery tasks."""

from __future__ import annotations

from typing import Any

from django_push.dispatch import MissingQueue, NotQueued, jobs

try:
    from celery import shared_task
except ImportError as error:
    raise MissingQueue("CeleryDispatcher", "django-push-tokens[celery]", error) from None

#: The longest delay, in seconds. Tasks that wait lie unacknowledged at a worker, and RabbitMQ gives up a
#: consumer after 30 minutes (consumer_timeout), SQS hands them out again after 30 and Redis after 60
#: (visibility_timeout). To run early does no harm; to run again and again would.
MAX_DELAY = 25 * 60.0
#: No job takes so long. It stands in place of the site's own time limits, in seconds: with the usual ones a
#: drainer would be killed with its claims, again and again. ``task_annotations`` may say otherwise.
TIME_LIMIT = 3600
#: A request waits for this: a broker that is away gets one more try, as a connection that has been idle
#: may only look dead. Seconds.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 0.2}
#: How long Redis may keep a request waiting, in seconds, if the site has not said so itself: without a
#: limit, publishing to one that is frozen or behind a wall waits for ever. AMQP has a limit of 4 seconds.
REDIS_TIMEOUT = 5.0
#: How long RabbitMQ may take to say that it has a message, where the site asks for that (confirm_publish).
#: Without a limit, publishing on a connection whose other end is gone waits for ever. Seconds.
CONFIRM_TIMEOUT = 4.0


def _run_job(job: str, payload: dict[str, Any]) -> None:
    """Do what a dispatcher was asked for."""
    jobs.run(job, payload)


run_job: Any = shared_task(
    name="django_push.run_job",
    ignore_result=True,
    serializer="json",
    time_limit=TIME_LIMIT,
    soft_time_limit=TIME_LIMIT,
)(_run_job)


class CeleryDispatcher:
    """Publishes each job as the task ``django_push.run_job``. A subclass may say where to."""

    #: The queue; None: the one that ``task_routes`` and ``task_default_queue`` lead to.
    queue_name: str | None = None
    #: As the broker understands it; None: the task's.
    priority: int | None = None

    @property
    def can_defer(self) -> bool:
        """Whether there is a worker: an eager task would run at once."""
        return not run_job.app.conf.task_always_eager

    def enqueue(self, job: str, payload: dict[str, Any], *, delay: float = 0.0) -> None:
        if not self.can_defer:
            if delay > 0:
                raise ValueError("Celery cannot defer a task while task_always_eager is set.")
            run_job.apply_async((job, payload))
            return
        options: dict[str, Any] = {"queue": self.queue_name, "priority": self.priority}
        if delay > 0:
            options["countdown"] = min(delay, MAX_DELAY)
        reason = _publish(job, payload, options)
        if reason:  # raised where no error is handled, so that no broker's address hangs on it
            raise NotQueued(f"Celery's broker did not take the job {job!r}: {reason}")


def _publish(job: str, payload: dict[str, Any], options: dict[str, Any]) -> str:
    """Publish a task, and return the names of the errors if it cannot be: their texts may hold a password."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        with run_job.app.producer_or_acquire() as producer:
            given |= _limit(producer.connection)
            run_job.apply_async(
                (job, payload),
                argsrepr=repr((job,)),  # what a monitor shows; the message is nobody's business there
                producer=producer,
                retry=True,
                retry_policy=RETRY_POLICY,
                **given,
            )
    except Exception as error:  # noqa: BLE001 - any transport's, or a broker URL that cannot be read
        return ", ".join(type(e).__name__ for e in (error, error.__cause__) if e is not None)
    return ""


def _limit(connection: Any) -> dict[str, Any]:
    """Have a connection give up in time, by how it is made or by the options of publishing, returned."""
    if connection.transport.driver_type == "amqp":
        return {"confirm_timeout": CONFIRM_TIMEOUT}
    if connection.transport.driver_type == "redis":
        connection.transport_options.setdefault("socket_timeout", REDIS_TIMEOUT)
        connection.transport_options.setdefault("socket_connect_timeout", REDIS_TIMEOUT)
    return {}
