r"""A VAE as an estimator of scikit-learn: codes of rows, their densities, and new rows.

It builds the VAE from the same texts as the command line, trains it by :func:`pyrovae.fit` and
scores rows by :func:`pyrovae.evidence.bounds`; nothing is computed in another way here.
"""

from copy import deepcopy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from pyrovae._process.isolation import isolated
from pyrovae.evidence import bounds
from pyrovae.runs import Config, Spec
from pyrovae.training import Progress, fit
from pyrovae.vae import VAE

__all__ = ["VariationalAutoencoder"]

FLOATS = (np.float64, np.float32)
ROLES = ("prior", "likelihood", "posterior", "encoder", "decoder", "objective")
ROWS = 10_000  # rows that are encoded or decoded at a time


class VariationalAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""A VAE for the rows of a table, in the manner of scikit-learn.

    ``transform`` gives codes, the mean of q(z | x), and ``inverse_transform`` the mean of p(x | z)
    at given codes. ``score_samples`` is the importance-weighted lower bound on log p(x), so that
    ``score``, its mean, chooses models in a ``GridSearchCV``. The likelihood is that of the values
    that ``fit`` is given: put a ``StandardScaler`` before it if columns differ in scale, and
    compare scores of the same scaling only.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114; Burda, Grosse
        and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519

    Args:
        latent_dim: dimensions of z.
        prior: p(z), as it is written for ``pyrovae fit --prior``; likewise the following five.
            Code of your own is named as ``module:Class`` and imported.
        likelihood: p(x | z).
        posterior: q(z | x).
        encoder: network of q(z | x).
        decoder: network of p(x | z).
        objective: of training.
        epochs: passes over the rows.
        batch_size: rows per step; None for a twentieth of all, at least 16 and at most 128.
        learning_rate: largest step size of Adam.
        weight_decay: decoupled weight decay of matrices.
        averaging: decay of the moving average of the weights, below 1; 0 keeps the last ones.
        samples: draws of z for each row in ``score_samples``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``, for training; everything else is done on a CPU.
        verbose: whether a line on standard error shows the progress, in a terminal.
        random_state: seed of weights, order and draws, or a ``RandomState``.

    Attributes:
        vae_: the trained VAE, in double precision.
        history_: metrics of each epoch, a :class:`pyrovae.training.History`.
        n_features_in_: number of columns.
        feature_names_in_: their names, if they have names.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from pyrovae.sklearn import VariationalAutoencoder
        >>> wine = load_wine().data
        >>> vae = VariationalAutoencoder(latent_dim=3, epochs=5, random_state=0)
        >>> codes = make_pipeline(StandardScaler(), vae).fit_transform(wine)
        >>> codes.shape
        (178, 3)
        >>> vae.inverse_transform(codes).shape, vae.sample(5, random_state=0).shape
        ((178, 13), (5, 13))
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        prior: str = "normal",
        likelihood: str = "normal",
        posterior: str = "diagonal",
        encoder: str = "mlp:hidden_dims=128-128",
        decoder: str = "mlp:hidden_dims=128-128",
        objective: str = "elbo",
        epochs: int = 100,
        batch_size: int | None = None,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        averaging: float = 0.0,
        samples: int = 200,
        device: str = "auto",
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.encoder = encoder
        self.decoder = decoder
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.averaging = averaging
        self.samples = samples
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803
        """Train a new VAE on all rows.

        Args:
            X: rows ``(examples, features)``, an array or a data frame of finite numbers.
            y: ignored.

        Raises:
            ValueError: if X or a parameter cannot be used.
        """
        rows: Any = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config, trusted = self._config(rows.shape[1], seed)
        vae = config.build(trusted=trusted)
        size = self.batch_size
        fitted = fit(
            vae,
            np.asarray(rows, np.float32),
            objective=config.objective(trusted=trusted),
            epochs=self.epochs,
            batch_size=min(128, max(16, len(rows) // 20)) if size is None else size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            averaging=self.averaging,
            device=self.device,
            seed=seed,
            report=None if self.verbose else _silent,
        )
        self.history_ = fitted.history
        self.vae_: VAE = deepcopy(vae.cpu()).double()  # so that a row's code is its own, to 1e-12
        self._seed = seed
        self._n_features_out = self.latent_dim
        return self

    def _config(self, features: int, seed: int) -> tuple[Config, frozenset[str]]:
        written = {role: getattr(self, role) for role in ROLES}
        specs = [Spec.parse(text) for text in written.values()]
        objective = written.pop("objective")
        return (
            Config(
                {"event_shape": (features,), "gaps": False},
                written | {"latent_dim": self.latent_dim, "input_divisor": 1},
                {"objective": objective, "seed": seed},
            ),
            frozenset(spec.name for spec in specs if spec.is_users_own),
        )

    def transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Compute codes: the mean of q(z | x) of each row.

        Args:
            X: rows ``(examples, features)``.

        Returns:
            Codes ``(examples, latent_dim)``.
        """
        return self._mapped(self._checked(X), lambda vae, x: vae.encode(x))

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Decode codes: the mean of p(x | z) at each.

        Args:
            X: codes ``(examples, latent_dim)``.

        Returns:
            Rows ``(examples, features)``.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=FLOATS)
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"codes have {self._n_features_out} columns, one for each dimension of z; "
                f"got {codes.shape[1]}"
            )
        return self._mapped(codes, lambda vae, z: vae.decode(z))

    def score_samples(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Estimate log p(x) of each row, from below, by importance weighting.

        The draws for a row are its own: they do not depend on the rows beside it.

        Args:
            X: rows ``(examples, features)``.

        Returns:
            Importance-weighted bounds in nats ``(examples,)``.
        """
        x = torch.from_numpy(np.array(self._checked(X), np.float64))
        found = np.empty(len(x))
        with torch.no_grad(), isolated():
            for i in range(len(x)):
                torch.manual_seed(self._seed)
                found[i] = bounds(self.vae_, x[i : i + 1], self.samples).log_evidence.item()
        return found

    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: N803
        """Average :meth:`score_samples` over the rows; higher is better.

        Args:
            X: rows ``(examples, features)``.
            y: ignored.
        """
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> NDArray[np.float64]:
        """Draw rows from the model: z from p(z), then x from p(x | z).

        Args:
            n_samples: number of rows.
            random_state: seed of the draws, or a ``RandomState``.

        Returns:
            Rows ``(n_samples, features)``.
        """
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        with torch.no_grad(), isolated():
            torch.manual_seed(seed)
            return self.vae_.sample(n_samples).numpy()

    def _checked(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        check_is_fitted(self)
        return validate_data(self, X, dtype=FLOATS, reset=False)

    def _mapped(self, rows: NDArray[Any], function: Any) -> NDArray[Any]:
        with torch.no_grad(), isolated():
            torch.manual_seed(self._seed)  # for means that come from draws
            parts = torch.from_numpy(np.array(rows, np.float64)).split(ROWS)
            found = torch.cat([function(self.vae_, part) for part in parts])
        return found.numpy().astype(rows.dtype, copy=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _silent(progress: Progress) -> None:
    """Show nothing."""
