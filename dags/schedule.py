"""When `retraining` runs, and with which parameters: settings of the environment, or else of an Airflow Variable.

They are checked when the DAG is parsed; Airflow lists a wrong one as an import error of `retraining`, with the whole
chain of exceptions, which `from None` keeps short.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow.sdk import Asset, Variable
from airflow.sdk.exceptions import AirflowTimetableInvalid

from shardline.base.errors import ConfigError
from shardline.settings.parameters import Parameters
from shardline.settings.run_config import RunConfig

if TYPE_CHECKING:
    from plugins.skipping_timetable import SkippingCronTimetable

VARIABLE = "shardline_retraining"
PREFIX = "SHARDLINE_RETRAINING_"


class RetrainingSettings(Parameters):
    """The keys of the Variable; in the environment each has a variable of its own, in capitals behind `PREFIX`."""

    cron: str = ""
    timezone: str = "UTC"
    on_dataset: bool = False
    parameters: dict[str, Any] = {}  # noqa: RUF012  pydantic copies it


@dataclass(frozen=True)
class Settings:
    """The settings, and what each is called where they stand."""

    values: RetrainingSettings = field(default_factory=RetrainingSettings)
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, key: str) -> str:
        """What to call the setting `key` in a message."""
        return self.names.get(key, f"the Variable {VARIABLE}, {key}")


def settings(environment: Mapping[str, str], read_variable: Callable[[str], str | None]) -> Settings:
    """What the environment says, or else, where it says nothing of retraining, the Variable."""
    names = {key: f"{PREFIX}{key.upper()}" for key in RetrainingSettings.model_fields}
    given = {key: environment[name] for key, name in names.items() if environment.get(name, "").strip()}
    if given:
        plain = ("cron", "timezone")
        values = {key: text if key in plain else _json(text, names[key]) for key, text in given.items()}
        return Settings(_checked(values, f"{PREFIX}*"), names)
    document = read_variable(VARIABLE)
    if not document:
        return Settings()
    where = f"the Variable {VARIABLE}"
    return Settings(_checked(_json(document, where), where))


def variable(key: str) -> str | None:
    """The Airflow Variable `key`: one request to Airflow, whenever `retraining` is parsed."""
    value: str | None = Variable.get(key, default=None)
    return value


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}: not JSON: {error}") from None


def _checked(document: Any, where: str) -> RetrainingSettings:
    try:
        return RetrainingSettings.from_json(json.dumps(document))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def schedule(chosen: Settings, dataset: Asset) -> Any:
    """What `DAG(schedule=…)` takes: ticks, updates of `dataset`, both, or None."""
    ticks = timetable(chosen.values.cron, chosen.values.timezone, chosen.name)
    if not chosen.values.on_dataset:
        return ticks
    if ticks is None:
        return [dataset]
    from airflow.serialization.encoders import ensure_serialized_asset

    from plugins.skipping_timetable import SkippingCronOrAsset

    return SkippingCronOrAsset(timetable=ticks, assets=[ensure_serialized_asset(dataset)])


def timetable(cron: str, timezone: str, name: Callable[[str], str]) -> SkippingCronTimetable | None:
    """The ticks of a cron expression, None where it is empty; `ConfigError` names a wrong one by its setting."""
    if not cron.strip():
        return None
    # Core's timetables take a moment to import: only a DAG with a schedule pays for them.
    from plugins.skipping_timetable import SkippingCronTimetable

    ticks = SkippingCronTimetable(cron.strip(), timezone=_timezone(timezone, name("timezone")))
    try:
        ticks.validate()
    except AirflowTimetableInvalid as error:
        raise ConfigError(
            f"{name('cron')}: expected a cron expression like '0 3 * * *', found {cron!r}: {error}"
        ) from None
    return ticks


def _timezone(timezone: str, name: str) -> str:
    try:
        return ZoneInfo(timezone).key
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError(f"{name}: expected a time zone like 'Europe/Berlin', found {timezone!r}") from None


def chosen_parameters(chosen: Settings) -> dict[str, Any]:
    """The parameters that the settings replace, by name; `ConfigError` names a wrong one."""
    try:
        RunConfig.from_json(json.dumps(chosen.values.parameters))
    except ConfigError as error:
        raise ConfigError(f"{chosen.name('parameters')}: {error}") from None
    return chosen.values.parameters
