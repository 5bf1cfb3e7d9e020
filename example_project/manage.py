#!/usr/bin/env python
"""The example shop's command line: ``manage.py demo`` is where to begin."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Runs from a checkout too, without installing it.
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
