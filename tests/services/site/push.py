"""The site's dispatcher, with its own queue."""

from django.conf import settings

from django_push.dispatch.django_tasks import DjangoTasksDispatcher


class Dispatcher(DjangoTasksDispatcher):
    backend = "push"
    queue_name = settings.QUEUE
