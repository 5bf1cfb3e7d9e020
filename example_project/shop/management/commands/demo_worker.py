"""A worker of the demo, made to be killed."""

from django.core.management.base import BaseCommand

from django_push.broadcasts import drain


class Command(BaseCommand):
    help = "Send a broadcast that is running."

    def add_arguments(self, parser):
        parser.add_argument("broadcast", type=int)

    def handle(self, *args, **options):
        drain(options["broadcast"])
