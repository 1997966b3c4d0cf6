"""Tiny models, served within the test's own process."""

import pytest
from tiny_server import Api, encoded, film, tiny_model

from longview.serving.served import Served


@pytest.fixture(scope="session")
def served():
    return Served.of(tiny_model())


@pytest.fixture(scope="session")
def two(served):
    return [served, Served.of(tiny_model("plain", dropout=0.0, seed=1))]


@pytest.fixture(scope="module")
def api(two):
    api = Api(two)
    assert api.studies(encoded(film())).status_code == 200  # the processes that decode films have started
    yield api
    api.house.close()
