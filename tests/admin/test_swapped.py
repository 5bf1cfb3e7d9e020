import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("how", ["as_it_is", "subclass"])
def test_swapped_models(how):
    """The admin serves a token model and a user model of the site's own, as it is and subclassed."""
    command = [sys.executable, "-W", "error", "-m", "tests.admin.swapped.run", how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
