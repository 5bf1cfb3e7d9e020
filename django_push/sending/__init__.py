"""Sending: from recipients and a message to a verdict on each token, written before it is told.

All sends go through here, in these steps:

- ``recipients.pages`` reads who gets it, as pages of tokens of one alias;
- ``texts`` says what each of them gets;
- ``lane`` sends, reads the answers, tries again what may be, and has the verdicts written;
- ``run`` leads a call through all of it, alias by alias.
"""

from django_push.sending.direct import asend_push, iter_push, send_push
from django_push.sending.queued import enqueue_push, send_enqueued

__all__ = ["asend_push", "enqueue_push", "iter_push", "send_enqueued", "send_push"]
