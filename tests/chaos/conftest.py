import os
import random

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from tests.chaos.databases import DATABASES
from tests.chaos.harness import ALIAS, Nursery, Run

SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEED", "1,2").split(",")]


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", SEEDS)


@pytest.fixture(scope="session", params=list(DATABASES))
def site_database(request, django_db_setup, django_db_blocker):
    """A database of the suite's own, its tables made, and the process that forks its workers."""
    database = DATABASES[request.param]()
    connections.settings[ALIAS] = connections.configure_settings({"default": {}, ALIAS: database.settings})[
        ALIAS
    ]
    try:
        with django_db_blocker.unblock(), override_settings(DATABASE_ROUTERS=["tests.chaos.harness.ToChaos"]):
            call_command("migrate", database=ALIAS, verbosity=0)
            nursery = Nursery(database)
            try:
                yield database, nursery
            finally:
                nursery.close()
                connections[ALIAS].close()
    finally:
        del connections[ALIAS]
        del connections.settings[ALIAS]
        database.close()


@pytest.fixture
def new_run(site_database, tmp_path):
    """``new_run(seed, …)``: a run on the database of this test."""
    database, nursery = site_database

    def make(seed, **options):
        return Run(database, nursery, tmp_path, seed, **options)

    state = random.getstate()
    yield make
    random.setstate(state)
    connections[ALIAS].close()


@pytest.fixture
def seed():
    """One seed, where a test has nothing that is random; others are given them all."""
    return SEEDS[0]
