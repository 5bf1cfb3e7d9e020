"""Sphinx configuration."""

import os
import sys
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django_push import __version__  # noqa: E402

project = "django_push"
author = "The django_push maintainers"
project_copyright = "2026, The django_push maintainers"
release = __version__
extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Push notifications for Django that keep your tokens right."}
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False
