"""Fixtures of the provider's tests."""

from tests.support.provider_fixtures import *  # noqa: F403
