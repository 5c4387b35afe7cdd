"""From the parameter `network` to its declaration: a module is imported, and its factory called.

Whoever may trigger a run names them. So Python's own modules are none that can be named, and no message says what else
stands under a name: `os:environ` would hold the worker's secrets.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from shardline.base.errors import ConfigError
from shardline.networks.train_spec import TrainSpec
from shardline.settings.run_config import RunConfig
from shardline.settings.run_parameters import BUILT_IN_NETWORKS


def declared(config: RunConfig) -> TrainSpec:
    """What the factory that `config.network` names returns; `ConfigError` says what else was found."""
    name = config.network
    place = f"shardline.recipes.{name}:train_spec" if name in BUILT_IN_NETWORKS else name
    module, _, attribute = place.partition(":")
    factory = _factory(_module(module, name), attribute, name)
    _check_signature(factory, config)
    spec = factory(config)
    if not isinstance(spec, TrainSpec):
        raise ConfigError(
            f"network {name!r}: expected {place} to return a shardline.networks.train_spec.TrainSpec, found "
            f"{type(spec).__name__}"
        )
    return spec


def _module(module: str, network: str) -> ModuleType:
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"network {network!r}: {module} is a module of Python's own, which declares no network")
    try:
        return import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"network {network!r}: the module {module} cannot be imported ({type(error).__name__}: {error}); it has "
            "to be installed, or its folder be on PYTHONPATH, wherever the tasks run: see docs/networks.md"
        ) from error


def _factory(module: ModuleType, attribute: str, network: str) -> Callable[[RunConfig], Any]:
    found = getattr(module, attribute, None)
    if not callable(found):
        factories = [name for name, member in vars(module).items() if inspect.isfunction(member) and name[0] != "_"]
        raise ConfigError(
            f"network {network!r}: expected a function {attribute} in {module.__name__}, found "
            f"{'none' if found is None else type(found).__name__}; the module's functions are "
            f"{', '.join(factories) or 'none'}"
        )
    factory: Callable[[RunConfig], Any] = found
    return factory


def _check_signature(factory: Callable[[RunConfig], Any], config: RunConfig) -> None:
    signature = inspect.signature(factory)
    try:
        signature.bind(config)
    except TypeError as error:
        raise ConfigError(
            f"network {config.network!r}: expected its factory to take one argument, the RunConfig, found "
            f"{signature} ({error})"
        ) from error
