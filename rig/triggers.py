"""A trigger's way through Airflow's database."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

from airflow.models.trigger import Trigger

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


def through_the_database(trigger: BaseTrigger) -> BaseTrigger:
    """Return a trigger as a triggerer gets it.

    :param trigger: the trigger as a task defers on it.
    """
    classpath, kwargs = trigger.serialize()
    # Airflow 2 has it under another name.
    encrypt = getattr(Trigger, "encrypt_kwargs", None) or Trigger._encrypt_kwargs
    copy: BaseTrigger = pkgutil.resolve_name(classpath)(**Trigger._decrypt_kwargs(encrypt(kwargs)))
    return copy
