"""What the tests of wire formats share: the gateway below Ray, with heads of a few lines."""

import pytest
from serving_fakes import Server


@pytest.fixture
def server() -> Server:
    return Server()
