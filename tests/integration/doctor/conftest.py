"""Fixtures of the provider's tests, kept out of the tests of the local Healthcare API."""

from tests.support.provider_fixtures import *  # noqa: F403
