"""Train on a table with gaps and words, and fill the gaps: how far from the values hidden there?

A tenth of the cells of scikit-learn's wine are hidden, and one of its columns becomes words. A VAE
is trained on what is left. The bound is one on log p of the observed values; the imputed means are
compared with the hidden numbers, and so are the means of the columns. Errors are in standard
deviations of a column.

    python examples/missing_values.py
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

import pyrovae
from pyrovae.data import from_frame
from pyrovae.queries import impute


def wine_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The wines with words for one column, and the same with one in ten cells empty."""
    wine = load_wine(as_frame=True).data
    wine = wine.rename(columns={"od280/od315_of_diluted_wines": "od_ratio"})
    wine = wine.astype({"magnesium": int, "proline": int})
    color = pd.cut(wine["color_intensity"], [0, 3.5, 6, 20], labels=["pale", "ruby", "deep"])
    wine["color_intensity"] = color.astype(object)
    wine = wine.rename(columns={"color_intensity": "color"})
    wine.index = [f"W{row:03}" for row in range(1, len(wine) + 1)]
    hidden = np.random.default_rng(0).random(wine.shape) < 0.1
    return wine, wine.astype(object).mask(hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=200, help="passes over the training rows")
    parser.add_argument("--samples", type=int, default=200, help="draws of z for each row")
    parser.add_argument("--count", type=int, default=60, help="rows whose gaps are filled")
    arguments = parser.parse_args()

    complete, gaps = wine_tables()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "wine.csv"))
        gaps.to_csv(path, index_label="bottle")
        settings = {
            "data": {"name": path, "id_column": "bottle"},
            "training": {"epochs": arguments.epochs},
        }
        config, data = pyrovae.Config.resolve(settings)
    vae = config.build()
    pyrovae.fit(vae, data, **dict(config.training, objective=config.objective()))
    bound = pyrovae.evaluate(vae, data.test, samples=200).log_evidence
    print(f"log p(observed values) of the test rows is at least {bound:.2f} nats")

    split = data.train
    x = split.batch(np.arange(min(arguments.count, len(split))))
    found = impute(vae, x, ~x.isnan(), samples=arguments.samples)
    mean, lower, upper = (split.original(v) for v in (found.mean, found.lower, found.upper))
    rows = complete.index.get_indexer(pd.Index(split.ids)[: len(x)])
    truth = from_frame(complete).parts["all"].x[rows]
    hidden = x.isnan().numpy()
    columns = from_frame(gaps).parts["all"].x
    numbers = np.array([column.kind != "category" for column in data.schema.columns])
    unit = np.nanstd(columns, 0)
    center = np.broadcast_to(np.nanmean(columns, 0), truth.shape)
    place = hidden & numbers
    for name, guess in (("the VAE", mean), ("the mean of the column", center)):
        error = np.square((guess - truth) / unit)[place]
        spread = error.std(ddof=1) / math.sqrt(len(error)) / (2 * math.sqrt(error.mean()))
        print(f"error of {name:<22} {math.sqrt(error.mean()):.2f} +- {spread:.2f}")
    inside = ((lower <= truth) & (truth <= upper))[place]
    share, error = 100 * inside.mean(), 100 * inside.std() / math.sqrt(len(inside))
    print(f"{share:.0f} +- {error:.0f} % of {len(inside)} intervals of 90 % hold the hidden number")
    words = hidden[:, ~numbers]
    if words.any():
        right = (np.rint(mean) == truth)[:, ~numbers][words]
        print(f"{right.sum()} of {len(right)} hidden words are the most probable ones")


if __name__ == "__main__":
    main()
