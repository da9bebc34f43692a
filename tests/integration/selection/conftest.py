"""Connections for the tests of selections."""

from tests.support.provider_fixtures import *  # noqa: F403
