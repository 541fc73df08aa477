"""Values of a module, and functions made at run time, in a form that any Python from 3.8 on can build again.

Pickle protocol 4 (PEP 3154) is the frame: it keeps shared and circular references. It does not carry everything:

* types of the standard library only where their pickled form is the same in all versions (``_STABLE_MODULES``);
* dates, paths, arrays and tables through the codecs of ``wire.values``, which no library version changes;
* functions and classes of the sliced modules by their name there, or, where they have none (closures, lambdas), as
  their source with the values of their free variables;
* nothing of other installed packages but what can be imported by name.

The environment trusts its sender; nothing here is ever read by the sender.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.origins import is_importable, sent_name
from k8s_venv.capture.parts import Attribute, Build, Parts, StateError
from k8s_venv.capture.sender_only import type_name
from k8s_venv.capture.unnamed import Unnamed
from k8s_venv.wire.encoder import Encoder
from k8s_venv.wire.errors import NoCodecError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from k8s_venv.capture.origins import Origins

PROTOCOL = 4  # the newest that Python 3.8 shares with all later ones by default (PEP 3154)

_CODED_MODULES = {"datetime", "numpy", "pandas", "pathlib", "polars", "pyarrow", "uuid", "zoneinfo"}
_STABLE_MODULES = {
    "abc", "array", "builtins", "collections", "contextlib", "dataclasses", "decimal", "enum", "fractions",
    "functools", "ipaddress", "numbers", "operator", "random", "_random", "re", "string", "types", "typing",
}  # fmt: skip
_PLACEHOLDERS = {"typing", "abc", "contextlib"}  # bases without state; their own objects are made by statements
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_SINGLETON_TYPES = (type(None), type(...), type(NotImplemented))
_CACHED = Build("cached")


def portable(
    value: Any,
    origins: Origins,
    unnamed: Container[int] = (),
    made: Mapping[int, tuple[str, str]] | None = None,
) -> Parts:
    """Pickle a value so that any Python can build it.

    Args:
        value: the value.
        origins: tells how modules travel.
        unnamed: ids of functions that are built from their parts, though their module has a name for them.
        made: ids of what statements make there, each with its module and name: it is referred to, never copied.

    Raises:
        StateError: it cannot travel.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream, origins, unnamed, made or {})
    try:
        pickler.dump(value)
    except StateError:
        raise
    except RecursionError:
        raise StateError("is nested too deeply") from None
    except Exception as error:
        raise StateError(f"cannot be pickled ({error})") from error
    pickler.parts.data = stream.getvalue()
    return pickler.parts


def place_of_global(
    value: Any, origins: Origins, unnamed: Container[int], made: Mapping[int, tuple[str, str]]
) -> tuple[str, str] | None:
    """Return the module and name under which a value is found once its module's statements have run, or None.

    Args:
        value: the value.
        origins: tells how modules travel.
        unnamed: as in ``portable``.
        made: as in ``portable``.
    """
    found = _Pickler(io.BytesIO(), origins, unnamed, made).persistent_id(value)
    return found[1:] if found is not None and found[0] == "global" else None


class _Pickler(pickle.Pickler):
    def __init__(
        self, stream: io.BytesIO, origins: Origins, unnamed: Container[int], made: Mapping[int, tuple[str, str]]
    ) -> None:
        super().__init__(stream, PROTOCOL)
        self.parts = Parts()
        self._origins = origins
        self._unnamed = unnamed
        self._made = made
        self._build = Unnamed(self.parts, origins)

    def persistent_id(self, value: Any) -> Any:
        """Return what stands for an object that is not pickled by its own means."""
        kind = type(value)
        if kind in _PLAIN:
            return None
        if kind is Build:
            return ("builder", value.name)
        if id(value) in self._made:
            module, name = self._made[id(value)]
            return ("global", sent_name(module), name)
        if isinstance(value, ModuleType):
            return self._module(value)
        named = self._global(value)
        if named is not None or isinstance(value, type | FunctionType):
            return named
        if kind.__module__.partition(".")[0] in _CODED_MODULES:
            try:
                Encoder().node(value)
            except NoCodecError as error:
                raise StateError(f"holds {error.kind}, which has no codec") from None
            self.parts.coded.append(value)
            return ("coded", len(self.parts.coded) - 1)
        return None

    def _module(self, module: ModuleType) -> tuple[str, str]:
        if self._origins.is_sliced(module.__name__):
            raise StateError(f"holds the module {module.__name__} itself")
        if not is_importable(module):
            raise StateError(f"holds the module {module.__name__}, which no import finds by that name")
        self.parts.modules.add(module.__name__)
        return ("module", module.__name__)

    def _global(self, value: Any) -> Any:
        """Return what stands for an object of any type that a definition of a sliced module made."""
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        qualname = qualname or getattr(value, "__name__", None)
        if not isinstance(module, str) or not isinstance(qualname, str) or id(value) in self._unnamed:
            return None
        if not self._origins.is_sliced(module):
            return None
        if self._origins.resolve(module, qualname) is value:
            self.parts.globals.add((module, qualname.partition(".")[0]))
            return ("global", sent_name(module), qualname)
        return None

    def reducer_override(self, value: Any) -> Any:
        """Reduce what plain pickle would refer to by a name that exists only here."""
        if isinstance(value, functools._lru_cache_wrapper):
            parameters = value.cache_parameters()
            return _CACHED, (value.__wrapped__, parameters["maxsize"], parameters["typed"])
        if isinstance(value, Attribute):
            return setattr, (value.kind, value.name, value.value)
        if isinstance(value, FunctionType | type):
            return self._definition(value)
        if isinstance(value, MethodType) and getattr(value.__self__, value.__func__.__name__, None) != value:
            raise StateError(f"holds the method {value.__func__.__qualname__} of an object that has no such method")
        if not isinstance(value, BuiltinFunctionType):
            self._check_instance(value)
        return _without_new(value)

    def _definition(self, value: FunctionType | type) -> Any:
        module = self._origins.importable(value)
        if module is not None:
            self.parts.modules.add(module)
        if module is not None or value in _SINGLETON_TYPES:
            return NotImplemented
        return self._build.class_(value) if isinstance(value, type) else self._build.function(value)

    def _check_instance(self, value: Any) -> None:
        for kind in type(value).__mro__:
            module = kind.__module__
            known = (
                module.partition(".")[0] in _STABLE_MODULES
                or self._origins.is_sliced(module)
                or self._origins.is_beside(module)
            )
            if not known or (module in _PLACEHOLDERS and kind is type(value)):
                raise StateError(f"holds {type_name(value)}, which cannot travel as a value")
            if self._origins.is_sliced(module) and vars(kind).keys() & {"__reduce__", "__reduce_ex__"}:
                self.parts.calls_own = True


def _without_new(value: Any) -> Any:
    """Reduce an object without its class's own ``__new__``, which may want arguments that are not known any more."""
    makers = [vars(kind)["__new__"] for kind in type(value).__mro__[:-1] if "__new__" in vars(kind)]
    if not makers or not all(isinstance(maker, staticmethod) for maker in makers):  # none, or a builtin type's
        return NotImplemented
    reduced = value.__reduce_ex__(PROTOCOL)
    is_default = isinstance(reduced, tuple) and reduced[:2] == (copyreg.__newobj__, (type(value),))  # type: ignore[attr-defined]
    return (object.__new__, *reduced[1:]) if is_default else NotImplemented


def is_plain(value: Any) -> bool:
    """Return whether nothing can change a value: numbers, text, and tuples of them."""
    if type(value) in (tuple, frozenset):
        return all(is_plain(item) for item in value)
    return type(value) in _PLAIN
