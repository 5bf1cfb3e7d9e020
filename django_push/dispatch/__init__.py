"""What runs work later. Only the modules of this package import a queue."""

from django.core.exceptions import ImproperlyConfigured


class MissingQueue(ImproperlyConfigured):
    """The dispatcher's package is not installed."""

    def __init__(self, dispatcher: str, package: str, error: ImportError) -> None:
        super().__init__(f"{dispatcher} needs {package}; run: pip install '{package}' ({error}).")
        self.package = package


class NotQueued(Exception):
    """The queue did not take a job. Says why without what an address of a broker may hold."""
