r"""Components written as text: ``name``, ``name:key=value,key=value`` or ``module:Class``.

The options are read from the classes themselves: they are the keyword-only parameters of the
constructor, with their annotations and defaults. Its other parameters (``latent_dim``,
``event_shape``, ``network``) come from the code that builds the model. Dashes join several numbers
in one value, ``hidden_dims=500-500``.
"""

import contextlib
import importlib
import inspect
import math
import os
import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pyrovae._process.choices import check_choice, nearest

__all__ = [
    "Arguments",
    "Option",
    "Spec",
    "context_of",
    "failure",
    "find",
    "options_of",
    "resolve",
    "write",
]

Arguments = dict[str, Any]
"""Arguments of a component by name."""

FORM = "name, name:key=value,key=value, or module:Class for code of your own"


@dataclass(frozen=True)
class Spec:
    """A component as it is written.

    Attributes:
        name: an entry of a family, or ``module:attribute`` for user-defined code.
        options: as text, by name.

    Example:
        >>> from pyrovae.runs import Spec
        >>> spec = Spec.parse("mixture:components=20,start=data")
        >>> spec.name, spec.options["components"], str(spec)
        ('mixture', '20', 'mixture:components=20,start=data')
    """

    name: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read ``name:key=value,key=value``.

        Raises:
            ValueError: if the text has another form.
        """
        head, *rest = text.split(":")
        if rest and not any(rest):
            raise ValueError(f"nothing follows the colon in {text!r}; write {FORM}")
        if rest and "=" not in rest[0]:  # module:attribute
            head = f"{head}:{rest.pop(0)}"
        written = ":".join(rest)
        options: dict[str, str] = {}
        for item in written.split(",") if written else ():
            key, equals, value = item.partition("=")
            if not equals or not key.strip() or not value.strip():
                raise ValueError(f"cannot read {item!r} in {text!r}; write {FORM}")
            if key.strip() in options:
                raise ValueError(f"{key.strip()} is given twice in {text!r}")
            options[key.strip()] = value.strip()
        if not head.strip() or (":" in head and not all(head.split(":"))):
            raise ValueError(f"no name in {text!r}; write {FORM}")
        return cls(head.strip(), options)

    @staticmethod
    def several(text: str) -> list[str]:
        """Split a list of specs, ``name,name:key=value,key=value,name``.

        Text after a comma belongs to the spec before it if it has the form ``key=value``.

        Raises:
            ValueError: if a spec is missing between two commas, or before an option.
        """
        specs: list[str] = []
        for item in text.split(","):
            is_option = "=" in item and ":" not in item.partition("=")[0]
            if not item.strip() or (is_option and not specs):
                raise ValueError(f"cannot read {item!r} in {text!r}; write specs joined by commas")
            if is_option:
                specs[-1] += f",{item.strip()}"
            else:
                specs.append(item.strip())
        return specs

    @property
    def is_users_own(self) -> bool:
        """Whether it names code outside the package."""
        return ":" in self.name

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


@dataclass(frozen=True)
class Option:
    """An option of a component: a keyword-only parameter of its constructor.

    Attributes:
        name: of the parameter.
        annotation: its type.
        default: its default.

    Example:
        >>> from pyrovae.runs import Option
        >>> option = Option("hidden_dims", tuple[int, ...], (500, 500))
        >>> option.read("200-100"), option.describe()
        ((200, 100), 'integers joined by dashes (500-500)')
    """

    name: str
    annotation: Any
    default: Any

    def read(self, text: str) -> Any:
        """Convert text to a value.

        Raises:
            ValueError: if the text cannot be read as the option's type.
        """
        kinds = _alternatives(self.annotation)
        for kind in sorted(kinds, key=lambda kind: kind is not type(None)):
            with contextlib.suppress(ValueError, KeyError):
                return _read_as(kind, text)
        raise ValueError(f"{self.name} takes {self.describe()}, got {text!r}")

    def take(self, value: Any) -> Any:
        """Convert a setting to a value: text, or the corresponding TOML type.

        Raises:
            ValueError: if it has another type.
        """
        kinds = _alternatives(self.annotation)
        if isinstance(value, str | os.PathLike):
            return self.read(os.fspath(value))
        if isinstance(value, list | tuple) and any(map(_is_sequence, kinds)):
            return self.read(write(value))
        if isinstance(value, Real) and (str not in kinds or int in kinds):
            return self.read(str(value))
        raise ValueError(f"{self.name} takes {self.describe()}, got {value!r}")

    def describe(self) -> str:
        """The values it takes, in words."""
        return " or ".join(dict.fromkeys(map(_in_words, _alternatives(self.annotation))))


def options_of(component: Callable[..., Any]) -> dict[str, Option]:
    """List the options of a component: its keyword-only parameters.

    Args:
        component: a class, or a function that returns an object.

    Example:
        >>> from pyrovae.priors import Laplace
        >>> from pyrovae.runs import options_of
        >>> list(options_of(Laplace))
        ['scale']
    """
    hints = _hints(component)
    return {
        name: Option(name, hints.get(name) or _kind_of(parameter.default), parameter.default)
        for name, parameter in inspect.signature(component).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def context_of(component: Callable[..., Any], known: Mapping[str, Any]) -> Arguments:
    """Choose the arguments that a component's positional parameters need.

    Args:
        component: a class, or a function that returns an object.
        known: the available arguments, by name.

    Raises:
        ValueError: if it needs another argument that has no default.

    Example:
        >>> from pyrovae.priors import Laplace
        >>> from pyrovae.runs import context_of
        >>> context_of(Laplace, {"latent_dim": 2, "event_shape": (1, 8, 8)})
        {'latent_dim': 2}
    """
    given: Arguments = {}
    for name, parameter in inspect.signature(component).parameters.items():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            continue
        if name in known:
            given[name] = known[name]
        elif parameter.default is parameter.empty:
            raise ValueError(
                f"{_name(component)} needs {name!r}, which is not available; available are "
                f"{', '.join(known)}; make {name!r} a keyword-only option with a default"
            )
    return given


def find(
    role: str, family: Mapping[str, Callable[..., Any]], spec: Spec, trusted: Collection[str]
) -> Callable[..., Any]:
    """Look up the class that a spec names.

    Args:
        role: name of the family, for messages.
        family: the entries by name.
        spec: as written.
        trusted: the ``module:attribute`` names that may be imported.

    Raises:
        ValueError: if there is no such entry, or the code is not trusted.
        ImportError: if trusted code cannot be imported.

    Example:
        >>> from pyrovae.priors import PRIORS
        >>> from pyrovae.runs import Spec, find
        >>> find("prior", PRIORS, Spec.parse("laplace"), trusted=()).__name__
        'Laplace'
    """
    if not spec.is_users_own:
        check_choice(role, spec.name, family, "or write module:Class for code of your own")
        return family[spec.name]
    head, _, attribute = spec.name.partition(":")
    if head in family and attribute in options_of(family[head]):
        raise ValueError(
            f"{role} {spec.name} has no value for {attribute}; write {spec.name}=VALUE, or "
            "module:Class for code of your own"
        )
    if spec.name not in trusted:
        raise ValueError(
            f"the {role} {spec} is code outside pyrovae, which runs only if you name it: "
            f"add --{role} {spec} on the command line, or trusted=[{spec.name!r}] in Python"
        )
    return _import(spec.name)


def resolve(
    role: str, component: Callable[..., Any], spec: Spec, known: Mapping[str, Any]
) -> tuple[Spec, Arguments]:
    """Fill in all options of a component: as written, else from ``known``, else the default.

    Args:
        role: of the component, for messages.
        component: the class that ``spec`` names.
        spec: as written.
        known: values for options that are not written.

    Returns:
        The spec with every option, and the options as values.

    Raises:
        ValueError: if a key is unknown, a value cannot be read, or a required option is missing.

    Example:
        >>> from pyrovae.priors import Laplace
        >>> from pyrovae.runs import Spec, resolve
        >>> spec, options = resolve("prior", Laplace, Spec.parse("laplace"), {})
        >>> str(spec), options
        ('laplace:scale=1.0', {'scale': 1.0})
    """
    options = options_of(component)
    for key in spec.options:
        if key not in options:
            allowed = "its options: " + ", ".join(options) if options else "it has no options"
            if spec.is_users_own and key in inspect.signature(component).parameters:
                allowed += f"; to make {key} one, put it after a * in the constructor"
            raise ValueError(
                f"{role} {spec.name} has no option {key!r}{nearest(key, options)}; {allowed}"
            )
    values: Arguments = {}
    for name, option in options.items():
        if name in spec.options:
            try:
                values[name] = option.read(spec.options[name])
            except ValueError as error:
                raise ValueError(f"{role} {spec.name}: {error}") from error
        elif known.get(name) is not None:
            values[name] = known[name]
        elif option.default is not inspect.Parameter.empty:
            values[name] = option.default
        else:
            raise ValueError(f"{role} {spec.name} needs {name}: {spec.name}:{name}=...")
    return Spec(spec.name, {name: write(value) for name, value in values.items()}), values


def failure(error: BaseException) -> str:
    """Describe an error in user-defined code, with its place, in one line.

    Args:
        error: the exception.

    Example:
        >>> from pyrovae.runs import failure
        >>> failure(ZeroDivisionError("division by zero"))
        'ZeroDivisionError: division by zero'
    """
    if isinstance(error, SyntaxError):
        return f"{error.msg} in line {error.lineno} of {error.filename}"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def write(value: Any) -> str:
    """Convert a value to text that :meth:`Option.read` converts back.

    Example:
        >>> from pyrovae.runs import write
        >>> write((500, 500)), write(None), write(True)
        ('500-500', 'none', 'true')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(str(item) for item in value)
    return str(value)


def _name(component: Callable[..., Any]) -> str:
    return getattr(component, "__name__", repr(component))


def _hints(component: Callable[..., Any]) -> dict[str, Any]:
    function = component.__init__ if inspect.isclass(component) else component
    try:
        return get_type_hints(function)
    except (NameError, TypeError):  # annotations of user-defined code may not resolve
        return {}


def _kind_of(default: Any) -> Any:
    """The type of an option without an annotation, inferred from its default."""
    return type(default) if isinstance(default, bool | int | float) else str


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _is_sequence(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list, Sequence)


def _read_as(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return {word: word for word in get_args(kind)}[text]
    if kind is type(None):
        return {"none": None}[text.lower()]
    if kind is bool:
        return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
    if _is_sequence(kind):
        return tuple(get_args(kind)[0](item) for item in text.split("-"))
    value = kind(text) if kind in (int, float) else text
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    if _is_sequence(kind):
        return "integers joined by dashes (500-500)"
    words = {int: "an integer", float: "a finite number", bool: "true or false", type(None): "none"}
    return words.get(kind, "text")


def _import(name: str) -> Callable[..., Any]:
    module_name, attribute = name.split(":")
    with _working_folder_first():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"cannot import {module_name} for {name}: {error}; it is looked for in the "
                "working folder and in installed packages"
            ) from error
        except Exception as error:
            raise ImportError(
                f"cannot import {module_name} for {name}: {failure(error)}"
            ) from error
    found = getattr(module, attribute, None)
    if found is None:
        public = {word: value for word, value in vars(module).items() if not word.startswith("_")}
        classes = [
            word
            for word, value in public.items()
            if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        raise ImportError(
            f"{module_name} has no class {attribute}{nearest(attribute, public)}; it has "
            + (", ".join(classes) or "none")
        )
    if not callable(found):
        raise ImportError(
            f"{name} is of type {type(found).__name__}; name a class, or a function that returns "
            "an object"
        )
    return found


@contextlib.contextmanager
def _working_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
