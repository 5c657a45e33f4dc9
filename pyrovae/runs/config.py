r"""A run as text: what is trained on which data, and how. Reads and writes TOML, builds objects.

Each setting comes from the first source that has it: the command line, a file, the recipe of the
dataset, the built-in default. The resolved :class:`Config` holds all of them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pyro.infer import ELBO

import pyrovae
from pyrovae.data import Dataset
from pyrovae.runs.construction import build_objective, build_vae
from pyrovae.runs.resolution import resolved
from pyrovae.runs.settings import read_complete, read_settings
from pyrovae.vae import VAE

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """A run with every setting resolved.

    Attributes:
        data: settings of the dataset: ``name`` (or path), ``data_dir``, ``image_size``,
            ``binarization``, ``scaling``; and what was found in it: ``maximum``, ``event_shape``.
        model: a spec with all its options for each of ``prior``, ``likelihood``, ``posterior``,
            ``encoder`` and ``decoder``; ``latent_dim``; and ``input_divisor``, by which the
            encoder divides x.
        training: keyword arguments of :func:`pyrovae.fit`; the objective as a spec.

    Example:
        >>> config, dataset = pyrovae.Config.resolve({"model": {"prior": "laplace"}})
        >>> config.data["name"], config.model["prior"], len(dataset.test)
        ('digits', 'laplace:scale=1.0', 359)
        >>> config.build().latent_dim
        10
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    training: Mapping[str, Any]

    @classmethod
    def resolve(
        cls,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        trusted: Collection[str] = (),
    ) -> tuple["Config", Dataset]:
        """Fill in the settings that are not given, from the data's recipe and the defaults.

        Args:
            settings: tables ``data``, ``model`` and ``training``, as in :class:`Config`; any part
                may be left out: ``{"data": {"name": "mnist"}, "model": {"prior": "laplace"}}``.
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Returns:
            The complete configuration, and the dataset it describes.

        Raises:
            ValueError: if a setting or its value is unknown, with the allowed ones.
            FileNotFoundError: if the data are missing.
        """
        tables, dataset = resolved(settings or {}, trusted)
        return cls(**tables), dataset

    def build(self, *, trusted: Collection[str] = ()) -> VAE:
        """Build the VAE, untrained, with initial weights that depend on the seed alone.

        Args:
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Raises:
            ValueError: if a component is unknown or not trusted, or an option is invalid.
        """
        event_shape = tuple(self.data["event_shape"])
        return build_vae(self.model, event_shape, self.training["seed"], trusted)

    def objective(self, *, trusted: Collection[str] = ()) -> ELBO:
        """Build the objective.

        Args:
            trusted: ``module:attribute`` names of user-defined code that may be imported.

        Raises:
            ValueError: as :meth:`build`.
        """
        return build_objective(self.training["objective"], trusted)

    def to_toml(self) -> str:
        """The text that :meth:`read` reads; ``none`` stands for None."""
        tables = {"data": self.data, "model": self.model, "training": self.training}
        plain = {
            table: {name: _plain(value) for name, value in settings.items()}
            for table, settings in tables.items()
        }
        return tomli_w.dumps({"pyrovae": pyrovae.__version__} | plain)

    @staticmethod
    def read(path: Path) -> dict[str, dict[str, Any]]:
        """Read settings from a TOML file, for :meth:`resolve`.

        Args:
            path: of a file such as :meth:`to_toml` writes, or with a part of its settings.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not TOML, or a key is unknown.
        """
        return read_settings(path)

    @classmethod
    def opened(cls, path: Path) -> "Config":
        """Open a file that :meth:`to_toml` wrote; nothing is looked up or imported.

        Args:
            path: of a run's ``config.toml``.

        Raises:
            FileNotFoundError, ValueError: as :meth:`read`, and if a setting is missing.
        """
        return cls(**read_complete(path))


def _plain(value: Any) -> Any:
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value
