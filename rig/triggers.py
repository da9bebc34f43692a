"""Storing triggers in Airflow's database, and loading them."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

from airflow.models.trigger import Trigger

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


def through_the_database(trigger: BaseTrigger) -> BaseTrigger:
    """Return a trigger as a triggerer loads it.

    :param trigger: the trigger that a task passes to its deferral.
    """
    classpath, kwargs = trigger.serialize()
    # Airflow 2 has another name for the method.
    encrypt = getattr(Trigger, "encrypt_kwargs", None) or Trigger._encrypt_kwargs
    copy: BaseTrigger = pkgutil.resolve_name(classpath)(**Trigger._decrypt_kwargs(encrypt(kwargs)))
    return copy
