"""Finds the app that `module:attribute` names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from anyserve.app import AnyServe

__all__ = ["AppNotFound", "load_app"]


class AppNotFound(Exception):
    """The app cannot be had; the message says why and what to do."""


def load_app(spec: str, *, factory: bool = False, app_dir: str = ".") -> AnyServe:
    """Imports a module and returns the app in it.

    Args:
        spec: `module:attribute`, both may be dotted; the attribute defaults to `app`.
        factory: the attribute is a function that returns the app.
        app_dir: put first on the import path.

    Raises:
        AppNotFound: no such module or attribute, or it is not an app.
        Exception: whatever the module raises while it loads.
    """
    module_name, _, attribute = spec.partition(":")
    attribute = attribute or "app"
    if module_name.endswith(".py") or "/" in module_name:
        raise AppNotFound(f"{spec!r} is a path; write the module's name instead, e.g. {_module_of(module_name)}:app")
    if not module_name or not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise AppNotFound(f"{spec!r} does not name an app; write module:attribute, e.g. my_app:app")
    directory = os.path.abspath(app_dir)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only if the module itself is missing; a missing import inside it is the app's own failure.
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise AppNotFound(
            f"there is no module {error.name!r} in {app_dir!r} or among the installed packages (--app-dir)"
        ) from None
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise AppNotFound(f"module {module_name!r} has no attribute {attribute!r}{_apps_in(module)}")
        found = getattr(found, part)
    return _checked(found, spec, factory)


def _checked(found: object, spec: str, factory: bool) -> AnyServe:
    if factory:
        if not callable(found):
            raise AppNotFound(f"{spec!r} is not callable; --factory needs a function that returns the app")
        found = found()
    if not isinstance(found, AnyServe):
        hint = "; if it is a function that returns the app, add --factory" if callable(found) else ""
        raise AppNotFound(f"{spec!r} is a {type(found).__name__}, not an AnyServe app{hint}")
    if not found.groups():
        raise AppNotFound(f"{spec!r} declares no capability: decorate a handler with @app.capability(...)")
    return found


def _module_of(path: str) -> str:
    return ".".join(part for part in Path(path).with_suffix("").parts if part not in ("/", ".", ".."))


def _apps_in(module: object) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, AnyServe)]
    return f"; it has the apps {', '.join(apps)}" if apps else ""
