r"""A table of mixed columns: each column has a likelihood of its own, and all share one decoder.

The columns are described by a text such as ``normal*3+poisson+categorical(levels=4)``: likelihoods
joined by ``+``, each with its options in parentheses, joined by ``;``, and ``*`` with the number of
columns in a row that it describes. Commas and colons do not occur in it, so that it is the value of
one option on the command line.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, ClassVar, cast

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from pyrovae import likelihoods
from pyrovae._process.choices import check_choice, nearest
from pyrovae.distributions import ColumnProduct
from pyrovae.likelihoods._base import Elementwise
from pyrovae.networks import NetworkFactory, Shape, applied, built

__all__ = ["Columns", "LikelihoodFactory", "check_columns", "read_columns", "write_columns"]

LikelihoodFactory = Callable[[int, Shape, NetworkFactory], nn.Module]
"""A function that makes a likelihood, such as its class or ``functools.partial(Normal, scale=1)``.
"""

FORM = "likelihoods joined by +, such as normal*3+poisson+student_t(df=3;scale=dimension)"

_ITEM = re.compile(r"(?P<name>\w+)(?:\((?P<options>[^()]*)\))?(?:\*(?P<count>\d+))?")


class Columns(nn.Module):
    r"""Independent columns of different kinds, each described by a likelihood of its own.

    .. math:: p(x \mid z) = \prod_d p_d(x_d \mid h_d(z))

    One decoder computes the parameters h of all columns. Columns with the same likelihood and the
    same options form a group, which that likelihood describes: with ``normal(scale=learned)`` the
    columns of the group share one scale, with ``scale=dimension`` each has its own. A category has
    the codes 0, ..., levels - 1 and is described by ``categorical(levels=...)``; as its mean its
    most probable code counts.

    The marginal likelihood of a part of the columns leaves out the factors of the others, so that
    missing values are integrated out.

    References:
        Nazábal, Olmos, Ghahramani and Valera (2020), Handling incomplete heterogeneous data using
        VAEs, arXiv:1807.03653

    Attributes:
        groups: the likelihoods of the groups.
        decoder: the network that all groups share.

    Args:
        latent_dim: number of dimensions of z.
        event_shape: shape of one example, ``(D,)``.
        network: factory of the decoder, called once, with ``((latent_dim,), (outputs,))``.
        columns: the likelihood of each column: as text, see
            :mod:`pyrovae.likelihoods.columns`; or a sequence with one item for each column, a text
            such as ``"normal(scale=0.1)"`` or a class or other factory of a likelihood with
            independent elements.

    Raises:
        ValueError: if x is no vector, there are not as many likelihoods as columns, one of them is
            unknown or has no independent elements, or an option is wrong.

    Example:
        >>> from pyrovae.likelihoods import Columns
        >>> from pyrovae.networks import MLP
        >>> table = Columns(2, (4,), MLP, columns="normal*2+poisson+categorical(levels=3)")
        >>> table.decoder.out_shape, table(torch.zeros(5, 2)).sample().shape
        ((6,), torch.Size([5, 4]))
    """

    scaling = "none"
    remedy: ClassVar[str] = (
        "each column takes what its own likelihood describes; choose another one for that column"
    )
    positions: Tensor

    def __init__(
        self,
        latent_dim: int,
        event_shape: Shape,
        network: NetworkFactory,
        *,
        columns: str | Iterable[str | LikelihoodFactory] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        grouped = _grouped(_factories(columns, self.event_shape))
        shared = _Shared(latent_dim)
        self.groups = nn.ModuleList(
            _made(factory, latent_dim, len(places), shared) for factory, places in grouped
        )
        self.shapes = (latent_dim,), (shared.size,)
        self.decoder = built(network, *self.shapes)
        shared.network = self.decoder
        self.places = [places for _, places in grouped]
        together = torch.tensor([place for places in self.places for place in places])
        self.register_buffer("positions", together, persistent=False)

    def forward(self, z: Tensor) -> dist.Distribution:
        output = applied(self.decoder, z, *self.shapes)  # (*batch, outputs)
        elements = [
            group.elements(cast("_Slice", group.decoder).part(output))
            for group, _ in self._groups()
        ]
        positions = self.positions.split([len(places) for places in self.places])
        return ColumnProduct(elements, positions).to_event(1)

    def initialize(self, x: Tensor) -> None:
        """Start each column at its data, as its own likelihood does.

        Args:
            x: training data ``(batch, D)``.
        """
        for group, places in self._groups():
            group.initialize(x[:, places])

    @property
    def nominal(self) -> Tensor:
        """Which columns are codes of categories, whose order means nothing, ``(D,)``."""
        nominal = torch.zeros(self.event_shape, dtype=torch.bool, device=self.positions.device)
        for group, places in self._groups():
            nominal[places] = isinstance(group, likelihoods.Categorical)
        return nominal

    def of_column(self, column: int) -> Elementwise:
        """The likelihood of the group that a column belongs to.

        Args:
            column: its position.
        """
        for group, places in self._groups():
            if column in places:
                return group
        raise IndexError(f"there is no column {column}; x has {self.event_shape[0]}")

    def _groups(self) -> Iterator[tuple[Elementwise, list[int]]]:
        """The likelihoods of the groups, each with the positions of its columns."""
        for group, places in zip(self.groups, self.places, strict=True):
            yield cast("Elementwise", group), places


class _Shared:
    """A decoder's outputs, of which each group takes some; no module, so nobody owns it twice.

    Args:
        latent_dim: number of dimensions of z.
    """

    def __init__(self, latent_dim: int) -> None:
        self.latent_dim, self.size = latent_dim, 0
        self.network: Any = None  # set when all groups have taken their outputs

    def take(self, in_shape: Shape, out_shape: Shape) -> "_Slice":
        """The network factory of a group: some outputs of the shared network."""
        if tuple(in_shape) != (self.latent_dim,):
            raise ValueError(
                f"a column's likelihood decodes z of shape ({self.latent_dim},), got "
                f"{tuple(in_shape)}"
            )
        first, self.size = self.size, self.size + math.prod(out_shape)
        return _Slice(self, out_shape, first)


class _Slice(nn.Module):
    """The decoder of one group: some outputs of the decoder that all groups share."""

    def __init__(self, shared: _Shared, out_shape: Shape, first: int) -> None:
        super().__init__()
        self.shared, self.out_shape = shared, tuple(out_shape)
        self.outputs = slice(first, first + math.prod(out_shape))

    def part(self, output: Tensor) -> Tensor:
        return output[..., self.outputs].unflatten(-1, self.out_shape)

    @property
    def output_bias(self) -> Tensor | None:
        bias = getattr(self.shared.network, "output_bias", None)
        return None if bias is None else bias.view(-1)[self.outputs]

    def forward(self, z: Tensor) -> Tensor:
        return self.part(self.shared.network(z))


def read_columns(text: str) -> list[tuple[str, dict[str, str]]]:
    """Read a text that describes columns, see :mod:`pyrovae.likelihoods.columns`.

    Args:
        text: such as ``normal*2+categorical(levels=4)``.

    Returns:
        For each column the name of its likelihood, and its options as text.

    Raises:
        ValueError: if the text has another form.

    Example:
        >>> from pyrovae.likelihoods import read_columns
        >>> read_columns("poisson*2+categorical(levels=4)")
        [('poisson', {}), ('poisson', {}), ('categorical', {'levels': '4'})]
    """
    columns: list[tuple[str, dict[str, str]]] = []
    for item in re.split(r"\+(?![^(]*\))", "".join(text.split())):
        found = _ITEM.fullmatch(item)
        if found is None or found["count"] == "0":
            raise ValueError(f"cannot read {item!r} among the columns; write {FORM}")
        options: dict[str, str] = {}
        for part in (found["options"] or "").split(";") if found["options"] else ():
            key, _, value = part.partition("=")
            if not key or not value or key in options:
                raise ValueError(f"cannot read the option {part!r} of {item!r}; write {FORM}")
            options[key] = value
        columns += [(found["name"], options)] * int(found["count"] or 1)
    return columns


def write_columns(columns: Iterable[tuple[str, Mapping[str, object]]]) -> str:
    """Write a text that :func:`read_columns` reads.

    Args:
        columns: for each column the name of its likelihood, and its options.

    Example:
        >>> from pyrovae.likelihoods import write_columns
        >>> write_columns([("poisson", {}), ("poisson", {}), ("categorical", {"levels": 4})])
        'poisson*2+categorical(levels=4)'
    """
    written = []
    for name, options in columns:
        inside = ";".join(f"{key}={value}" for key, value in options.items())
        written.append(f"{name}({inside})" if inside else name)
    counted = ((item, len(list(run))) for item, run in groupby(written))
    return "+".join(item if count == 1 else f"{item}*{count}" for item, count in counted)


def check_columns(columns: str, event_shape: Shape) -> None:
    """Refuse a text that does not describe the columns, as `Columns` would, without building it.

    Args:
        columns: text that describes columns.
        event_shape: shape of one example.

    Raises:
        ValueError: if the text has another form, a name or an option is unknown, or their number
            is not that of the columns.

    Example:
        >>> from pyrovae.likelihoods import check_columns
        >>> check_columns("normal*2+poisson", (3,))
    """
    _factories(columns, event_shape)


def _factories(
    columns: str | Iterable[str | LikelihoodFactory] | None, event_shape: Shape
) -> list[LikelihoodFactory]:
    """The factory of each column's likelihood."""
    if len(event_shape) != 1:
        raise ValueError(
            f"columns describes tables, whose examples are vectors, got examples of shape "
            f"{event_shape}; choose one likelihood for all elements"
        )
    if columns is None:
        raise ValueError(
            f"the likelihood columns needs one likelihood for each of the {event_shape[0]} "
            f"columns; set columns to {FORM}"
        )
    found: list[LikelihoodFactory] = []
    for item in [columns] if isinstance(columns, str) else columns:
        found += map(_named, read_columns(item)) if isinstance(item, str) else [item]
    if len(found) != event_shape[0]:
        raise ValueError(
            f"columns describes {len(found)} columns, and x has {event_shape[0]}; give one "
            "likelihood for each, name*3 for three in a row"
        )
    return found


def _named(column: tuple[str, Mapping[str, str]]) -> LikelihoodFactory:
    """The factory of a likelihood that is written by name."""
    name, options = column
    known = likelihoods.LIKELIHOODS
    family = {word: known[word] for word in known if issubclass(known[word], Elementwise)}
    check_choice("likelihood of a column", name, family)
    parameters = {
        word: parameter.default
        for word, parameter in inspect.signature(family[name]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in parameters:
            allowed = "its options: " + ", ".join(parameters) if parameters else "it has no options"
            raise ValueError(
                f"the likelihood {name} of a column has no option {key!r}"
                f"{nearest(key, parameters)}; {allowed}"
            )
        values[key] = _value(f"{key} of the likelihood {name}", text, parameters[key])
    return partial(family[name], **values)


def _value(what: str, text: str, default: Any) -> Any:
    """An option as its default is: a whole number, a number, or a number or a word."""
    if isinstance(default, str) and re.fullmatch(r"[a-z_]+", text):
        return text
    kind, words = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{what} is {words}, got {text!r}") from None


def _grouped(
    factories: Sequence[LikelihoodFactory],
) -> list[tuple[LikelihoodFactory, list[int]]]:
    """The distinct factories, each with the positions of its columns."""
    groups: list[tuple[Any, LikelihoodFactory, list[int]]] = []
    for place, factory in enumerate(factories):
        key = (
            (factory.func, factory.args, factory.keywords)
            if isinstance(factory, partial)
            else (factory, (), {})
        )
        for known, _, places in groups:
            if known == key:
                places.append(place)
                break
        else:
            groups.append((key, factory, [place]))
    return [(factory, places) for _, factory, places in groups]


def _made(factory: LikelihoodFactory, latent_dim: int, count: int, shared: _Shared) -> Elementwise:
    group = factory(latent_dim, (count,), shared.take)
    if not isinstance(group, Elementwise):
        raise ValueError(
            f"the likelihood of a column describes independent elements, and "
            f"{type(group).__name__} is none of pyrovae.likelihoods that do; take one of these"
        )
    return group
