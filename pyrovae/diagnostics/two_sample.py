r"""Classifiers as instruments: do two samples differ, and what can be read from a code.

Fits are scikit-learn's, on standardised columns, and depend on the data and the seed alone. It is
imported when it is used: it takes a while, and sets variables of the environment.
"""

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

__all__ = ["FEWEST", "NEIGHBOURS", "probe", "two_samples"]

Array = NDArray[Any]

FEWEST = 20  # of each sample, for a test between two
"""Examples that a two-sample test needs of each sample."""

NEIGHBOURS = 5
"""Neighbours that vote on a class."""


def two_samples(a: Array, b: Array, seed: int = 0) -> dict[str, Any]:
    r"""A classifier two-sample test: can a classifier tell a from b on data it has not seen?

    A network with one hidden layer of 32 units is trained on one half of each, and tested on the
    other. If both are from the same distribution each answer is right with probability one half,
    and the number of right answers is at most as spread as :math:`\mathrm{Binomial}(n, 1/2)`.
    The expected accuracy on new data, :math:`t`, bounds the total variation distance of the two
    distributions from below by :math:`2 t - 1`.

    References:
        Lopez-Paz and Oquab (2017), Revisiting Classifier Two-Sample Tests, arXiv:1610.06545

    Args:
        a: independent draws ``(n, columns)``.
        b: as many independent draws, and independent of a; of more, the first so many are taken.
        seed: of the halves and of the network's weights.

    Returns:
        ``accuracy`` with its ``standard_error``, ``p_value`` of an accuracy so high or higher,
        ``tested``, the number n of answers.

    Raises:
        ValueError: if there are fewer than ``FEWEST`` of one.
    """
    from sklearn.neural_network import MLPClassifier

    count = min(len(a), len(b))
    if count < FEWEST:
        raise ValueError(
            f"a two-sample test needs at least {FEWEST} of each, got {len(a)} and {len(b)}"
        )
    rng = np.random.default_rng(seed)
    half = count // 2
    halves = [np.split(sample[:count][rng.permutation(count)], [half]) for sample in (a, b)]
    train, test = (np.concatenate(part) for part in zip(*halves, strict=True))
    network = MLPClassifier((32,), alpha=0.1, max_iter=200, random_state=seed % 2**32)
    of_train, of_test = (np.arange(len(part)) >= len(part) // 2 for part in (train, test))
    right = _right(network, train, of_train, test, of_test)
    return _accuracy(right) | {
        "p_value": float(binom.sf(right.sum() - 1, len(right), 0.5)),
        "tested": len(right),
    }


def probe(train: Array, train_labels: Array, test: Array, test_labels: Array) -> dict[str, Any]:
    """How well classes can be read from each row, by a linear map and by its neighbours.

    Args:
        train: codes or pixels ``(n, columns)``.
        train_labels: their classes ``(n,)``.
        test: others ``(m, columns)``.
        test_labels: their classes ``(m,)``.

    Returns:
        ``linear``, of logistic regression, and ``neighbours``, of the majority of the 5 nearest:
        each with ``accuracy`` on ``test`` and its ``standard_error``; ``chance``, the share of the
        class that is most frequent in ``train``; ``right``, for each of the two, whether each
        answer was.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    classes, counts = np.unique(train_labels, return_counts=True)
    nearest = KNeighborsClassifier(min(NEIGHBOURS, len(train)))
    right = {
        "linear": _right(LogisticRegression(max_iter=500), train, train_labels, test, test_labels),
        "neighbours": _right(nearest, train, train_labels, test, test_labels),
    }
    frequent = test_labels == classes[counts.argmax()]
    return {name: _accuracy(answers) for name, answers in right.items()} | {
        "chance": float(frequent.mean()),
        "right": right,
    }


def _right(model: Any, train: Array, of_train: Array, test: Array, of_test: Array) -> Array:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weaker classifier is still valid
        fitted = make_pipeline(StandardScaler(), model).fit(train, of_train)
    return np.asarray(fitted.predict(test) == of_test)


def _accuracy(right: Array) -> dict[str, Any]:
    count = len(right)
    near = (right.sum() + 1) / (count + 2)  # so that 7 right answers of 7 are not without error
    return {
        "accuracy": float(right.mean()),
        "standard_error": math.sqrt(near * (1 - near) / count),
    }
