"""Every invariant, in every mode: what is killed, frozen, restarted, refused or said twice."""

import pytest

from tests.chaos.invariants import check

pytestmark = [pytest.mark.chaos, pytest.mark.services, pytest.mark.slow]


def test_kills(new_run, seed):
    """Workers are killed all the time: nobody is missed, and what is doubled was announced."""
    run = new_run(seed, size=4000)
    with run.site(broadcast_rate=1000):
        run.start()
        run.work(3)
        run.until_over([run.kill])
        check(run)
