r"""Classifiers as instruments: whether two samples differ, and what can be read from a code.

The classifiers are scikit-learn's, fitted to standardized columns with means in place of missing
values; a fit depends only on the data and the seed. scikit-learn is imported on first use, because
importing it is slow and sets environment variables.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from pyrovae._process.interruption import unswallowed
from pyrovae._process.isolation import alone
from pyrovae.estimates import Estimate, Result

__all__ = ["FEWEST", "NEIGHBORS", "Accuracy", "Probe", "TwoSampleTest", "probe", "two_samples"]

Array = NDArray[Any]

FEWEST = 20
"""Smallest size of each sample in a two-sample test."""

NEIGHBORS = 5
"""Neighbors that vote on a class."""


class Accuracy(Estimate):
    """A share of right answers on data that the classifier was not trained on.

    Attributes:
        value: the share, between 0 and 1.
        standard_error: its standard error, positive even if all answers are right.

    Example:
        >>> from pyrovae.diagnostics import Accuracy
        >>> Accuracy(0.75, 0.05).to_dict()
        {'accuracy': 0.75, 'standard_error': 0.05}
    """

    JSON_NAMES: ClassVar[Mapping[str, str]] = {"value": "accuracy"}


class TwoSampleTest(Result):
    """Result of a classifier two-sample test.

    Attributes:
        accuracy: share of right answers.
        p_value: probability of at least this accuracy if both samples have one distribution.
        tested: number of answers.

    Example:
        >>> from pyrovae.diagnostics import Accuracy, TwoSampleTest
        >>> TwoSampleTest(Accuracy(0.75, 0.05), p_value=1e-6, tested=80)
        TwoSampleTest(accuracy=0.75 ± 0.05, p_value=1e-06, tested=80)
    """

    accuracy: Accuracy
    p_value: float
    tested: int

    def to_dict(self) -> dict[str, object]:
        """Plain data on one level."""
        return self.accuracy.to_dict() | {"p_value": self.p_value, "tested": self.tested}


class Probe(Result):
    """How well two classifiers read the class of a row.

    Attributes:
        linear: accuracy of logistic regression.
        neighbors: accuracy of the majority of the 5 nearest rows.
        chance: share of the test data that is guessed right without looking: always the class that
            is most frequent in the training data, or at random in their proportions, whichever is
            the better guess.
        right: for each of ``linear`` and ``neighbors``, whether each answer was right.

    Example:
        >>> from pyrovae.diagnostics import Accuracy, Probe
        >>> Probe(Accuracy(0.75, 0.05), Accuracy(0.8, 0.05), chance=0.1, right={})
        Probe(linear=0.75 ± 0.05, neighbors=0.80 ± 0.05, chance=0.1, right={})
    """

    linear: Accuracy
    neighbors: Accuracy
    chance: float
    right: Mapping[str, Array] = field(compare=False)

    def to_dict(self) -> dict[str, object]:
        """Plain data: the two accuracies."""
        return {"linear": self.linear.to_dict(), "neighbours": self.neighbors.to_dict()}


def two_samples(a: Array, b: Array, seed: int = 0) -> TwoSampleTest:
    r"""Test whether a classifier can distinguish two samples on data it has not seen.

    A network with one hidden layer of 32 units is trained on one half of each sample and tested on
    the other half. If both samples come from the same distribution, each answer is right with
    probability one half, and the number of right answers has at most the spread of
    :math:`\mathrm{Binomial}(n, 1/2)`. The expected accuracy on new data, :math:`t`, gives the lower
    bound :math:`2 t - 1` on the total variation distance between the two distributions.

    References:
        Lopez-Paz and Oquab (2017), Revisiting Classifier Two-Sample Tests, arXiv:1610.06545

    Args:
        a: independent draws ``(n, columns)``.
        b: independent draws ``(m, columns)``, also independent of a; only the first ``min(n, m)``
            rows of each sample are used.
        seed: seed of the halves and of the network's weights.

    Returns:
        The accuracy and its p-value.

    Raises:
        ValueError: if one sample has fewer than ``FEWEST`` rows.

    Example:
        >>> import numpy as np
        >>> from pyrovae.diagnostics import two_samples
        >>> rng = np.random.default_rng(0)
        >>> a, b = rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + 20
        >>> two_samples(a, b).accuracy.value
        1.0
    """
    from sklearn.neural_network import MLPClassifier

    count = min(len(a), len(b))
    if count < FEWEST:
        raise ValueError(
            f"a two-sample test needs at least {FEWEST} rows of each sample, got {len(a)} and "
            f"{len(b)}"
        )
    rng = np.random.default_rng(seed)
    half = count // 2
    halves = [np.split(sample[:count][rng.permutation(count)], [half]) for sample in (a, b)]
    train, test = (np.concatenate(part) for part in zip(*halves, strict=True))
    network = MLPClassifier((32,), alpha=0.1, max_iter=200, random_state=seed % 2**32)
    of_train, of_test = (np.arange(len(part)) >= len(part) // 2 for part in (train, test))
    right = _right(network, train, of_train, test, of_test)
    p_value = float(binom.sf(right.sum() - 1, len(right), 0.5))
    return TwoSampleTest(_accuracy(right), p_value, len(right))


def probe(train: Array, train_labels: Array, test: Array, test_labels: Array) -> Probe:
    """Measure how well classes can be read from rows, by a linear map and by nearest neighbors.

    Args:
        train: codes or pixels ``(n, columns)``.
        train_labels: their classes ``(n,)``.
        test: other codes or pixels ``(m, columns)``.
        test_labels: their classes ``(m,)``.

    Returns:
        The accuracy of both classifiers on ``test``.

    Example:
        >>> import numpy as np
        >>> from pyrovae.diagnostics import probe
        >>> labels = np.arange(40) % 2
        >>> rows = 10.0 * labels[:, None] + np.random.default_rng(0).normal(size=(40, 1))
        >>> found = probe(rows[:20], labels[:20], rows[20:], labels[20:])
        >>> found.linear.value, found.neighbors.value, found.chance
        (1.0, 1.0, 0.5)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    classes, counts = np.unique(train_labels, return_counts=True)
    nearest = KNeighborsClassifier(min(NEIGHBORS, len(train)))
    right = {
        "linear": _right(LogisticRegression(max_iter=500), train, train_labels, test, test_labels),
        "neighbors": _right(nearest, train, train_labels, test, test_labels),
    }
    shares = (test_labels[:, None] == classes).mean(0)
    guesses = shares[counts.argmax()], shares @ counts / counts.sum()
    accuracies = {name: _accuracy(answers) for name, answers in right.items()}
    return Probe(**accuracies, chance=float(max(guesses)), right=right)


def _right(model: Any, train: Array, of_train: Array, test: Array, of_test: Array) -> Array:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with alone(), unswallowed(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weaker classifier is still valid
        gaps = np.isnan(train).any() or np.isnan(test).any()
        means = [SimpleImputer(keep_empty_features=True)] if gaps else []
        fitted = make_pipeline(*means, StandardScaler(), model).fit(train, of_train)
    return np.asarray(fitted.predict(test) == of_test)


def _accuracy(right: Array) -> Accuracy:
    count = len(right)
    near = (right.sum() + 1) / (count + 2)  # so that 7 right answers of 7 have an error too
    return Accuracy(float(right.mean()), math.sqrt(near * (1 - near) / count))
