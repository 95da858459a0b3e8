"""Packages that are functions, too: ``ffdr.train`` holds the modules of training and, called, trains.

Importing ``ffdr.train.fit`` sets the attribute ``train`` of ``ffdr`` to the package, whatever had that name before. So
no function beside the package could keep it; the package itself takes the call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class CallablePackage(ModuleType):
    """A package that passes calls on to one of its functions."""

    __wrapped__: Callable[..., Any]
    """under the name that ``inspect.signature`` follows"""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.__wrapped__(*args, **kwargs)


def call_of_package(function: F) -> F:
    """Decorate the function that stands in a package's ``__init__.py`` and is what calls of the package do."""
    package = sys.modules[function.__module__]
    package.__class__ = CallablePackage
    package.__dict__["__wrapped__"] = function
    return function
