"""Examples as Python holds them give the batches that the same numbers in a tensor give."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
)
from torch.utils.data import Dataset as TorchDataset

from pyrovae.data import Split, as_split, load, loaded
from pyrovae.diagnostics import active_units, activity, aggregate_draws, compare_gradients, gap
from pyrovae.evidence import evaluate, per_example, reconstruction_by_element
from pyrovae.kl import ledger
from pyrovae.likelihoods import Bernoulli
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.queries import encodings, impute, score
from pyrovae.runs import change
from pyrovae.vae import VAE
from tests.conftest import SEEDS

WHOLE = np.array([[0, 1, 2], [3, 0, 1], [0, 0, 0], [1, 1, 5]])


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def all_of(split):
    return torch.cat(list(split.batches(3)))


class Pairs(TorchDataset):
    """Examples made one by one, with what comes with them."""

    def __init__(self, x, labels):
        self.x, self.labels = x, labels

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.labels[index]


class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.zeros(4, 3)


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u1", "<i2", ">i2", "u2", ">i4", "u4", "i8", ">u8", "f2", ">f4", "f4", ">f8", "f8"],
)
def test_arrays_of_every_real_type(dtype):
    x = WHOLE.astype(dtype)
    split = as_split(x)
    expected = torch.from_numpy(x.astype(np.float32))
    assert torch.equal(all_of(split), expected)
    assert torch.equal(split.on_device(torch.device("cpu")).batch(torch.arange(4)), expected)
    assert not split.gaps


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64]
)
def test_tensors_of_every_real_type(dtype):
    x = torch.from_numpy(WHOLE).to(dtype)
    assert torch.equal(all_of(as_split(x)), x.float())
    assert torch.equal(all_of(as_split(x.requires_grad_(dtype.is_floating_point))), x.float())


def test_masked_entries_are_missing():
    x = np.ma.masked_less([[1.0, -999.0], [2.0, 3.0]], -900)
    split = as_split(x)
    assert split.gaps
    assert same(all_of(split), torch.tensor([[1.0, torch.nan], [2.0, 3.0]]))
    whole = as_split(np.ma.masked_equal(WHOLE, 5))
    assert whole.gaps
    assert torch.equal(all_of(whole).isnan(), torch.from_numpy(WHOLE == 5))
    assert not as_split(np.ma.masked_equal(WHOLE, 9)).gaps


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "bsr"])
@pytest.mark.parametrize("form", ["matrix", "array"])
@pytest.mark.parametrize("dtype", [np.int8, bool, np.float64])
def test_sparse_matrices_become_dense_by_batch(kind, form, dtype):
    x = WHOLE.astype(dtype)
    split = as_split(getattr(scipy.sparse, f"{kind}_{form}")(x))
    assert split.event_shape == (3,)
    assert torch.equal(all_of(split), torch.from_numpy(x.astype(np.float32)))
    assert torch.equal(split.batch(np.array([3, 0])), torch.from_numpy(x[[3, 0]]).float())


def test_a_sparse_matrix_may_hold_gaps_or_nothing_but_zeros():
    split = as_split(scipy.sparse.csr_matrix(np.array([[0.0, np.nan], [0.0, 0.0]])))
    assert split.gaps
    assert same(all_of(split), torch.tensor([[0.0, torch.nan], [0.0, 0.0]]))
    assert torch.equal(all_of(as_split(scipy.sparse.csr_matrix((5, 2)))), torch.zeros(5, 2))
    assert torch.equal(all_of(as_split(torch.eye(4).to_sparse())), torch.eye(4))
    with pytest.raises(ValueError, match=r"stored values of x\[2, 0\] is inf"):
        as_split(scipy.sparse.csr_matrix(np.array([[0.0, 1.0], [2.0, np.inf]])))


def test_a_data_frame_with_an_index_of_its_own():
    frame = pd.DataFrame(
        {"batches": [1.5, np.nan, 2.0], "color": ["red", "blue", "red"]}, index=["a", "b", "c"]
    ).astype({"color": "category"})
    split = as_split(frame)
    assert split.gaps
    assert same(all_of(split), torch.tensor([[1.5, 1.0], [torch.nan, 0.0], [2.0, 1.0]]))
    assert split.ids.tolist() == ["a", "b", "c"]
    assert torch.equal(all_of(as_split(frame[["color"]])), torch.tensor([[1.0], [0.0], [1.0]]))
    red = frame[frame.color == "red"]  # the same code without the blue ones
    assert torch.equal(all_of(as_split(red[["color"]])), torch.tensor([[1.0], [1.0]]))


def test_words_have_no_codes_of_their_own_in_each_frame():
    frame = pd.DataFrame({"x": [1.5, 2.0], "color": ["red", "blue"], "flag": ["True", "False"]})
    remedy = r"frame\['color'\].astype\(pandas.CategoricalDtype\(\['blue', 'red'\]\)\)"
    with pytest.raises(ValueError, match=f"column color holds words.*{remedy}"):
        as_split(frame)
    assert as_split(frame[["x", "flag"]]).batch(np.arange(2)).tolist() == [[1.5, 1.0], [2.0, 0.0]]


@pytest.mark.parametrize("seed", SEEDS)
def test_torch_datasets_of_tensors_and_pairs(seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(30, 2, 3)))
    labels = torch.arange(30) % 4
    plain = as_split(TensorDataset(x))
    assert plain.event_shape == (2, 3)
    assert plain.labels is None
    assert torch.equal(all_of(plain), x.float())
    assert plain.digest() == as_split(x).digest()
    pairs = as_split(TensorDataset(x, labels))
    assert torch.equal(all_of(pairs), x.float())
    assert pairs.labels.tolist() == labels.tolist()
    some = as_split(ConcatDataset([Subset(TensorDataset(x, labels), [5, 2]), Pairs(x, range(30))]))
    assert torch.equal(all_of(some), torch.cat([x[[5, 2]], x]).float())
    assert some.labels.tolist() == [1, 2, *range(30)]
    arrays = as_split(Pairs(x.numpy(), [np.int8(3)] * 30))
    assert torch.equal(all_of(arrays), x.float())
    assert arrays.labels.tolist() == [3] * 30


@pytest.mark.parametrize("label", [0.5, torch.tensor(0.5), torch.arange(2), "cat", None])
def test_what_is_no_label_is_left_out(label):
    assert as_split(Pairs(torch.eye(3), [label] * 3)).labels is None


def test_each_example_of_a_dataset_is_asked_for_once_while_it_is_checked():
    asked = []

    class Counted(Pairs):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    split = as_split(Counted(torch.eye(5), range(5)))
    assert asked == [0, *range(5)]
    split.batch(np.array([4, 4]))
    assert asked[6:] == [4, 4]


def test_gaps_of_a_dataset_are_found_wherever_they_are():
    x = torch.zeros(40, 3)
    x[39, 2] = torch.nan
    assert as_split(TensorDataset(x)).gaps
    assert as_split(DataLoader(x, batch_size=7)).gaps
    assert not as_split(TensorDataset(x[:39])).gaps


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_gone_through_once_in_its_order(workers):
    x, labels = torch.randn(10, 3), torch.arange(10)
    loader = DataLoader(
        TensorDataset(x, labels), batch_size=4, sampler=range(9, -1, -1), num_workers=workers
    )
    split = as_split(loader)
    assert torch.equal(all_of(split), x.flip(0))
    assert split.labels.tolist() == labels.flip(0).tolist()
    assert [len(batch) for batch in loaded(loader)] == [4, 4, 2]
    of_stream = as_split(DataLoader(Stream(), batch_size=3))
    assert len(of_stream) == 4
    assert of_stream.labels is None
    own = DataLoader(x, batch_size=5, collate_fn=lambda rows: torch.stack(rows).numpy())
    assert torch.equal(all_of(as_split(own)), x)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[1.0, 2.0]], r"of type list; allowed are .*numpy\.asarray"),
        ({"x": 1}, "of type dict"),
        ("wine.csv", "of type str"),
        (None, "of type NoneType"),
        (pd.Series([1.0, 2.0]), "of type Series"),
        (Stream(), "of type Stream; allowed are .* a DataLoader"),
        (Pairs([{"x": 1}] * 3, range(3)), "examples of the dataset are tuples of dict, int"),
        (Pairs(["cat"] * 3, range(3)), "tuples of str, int"),
        (DataLoader(Pairs(["cat"] * 3, range(3))), "batches are lists of tuple, Tensor"),
        (DataLoader([{"x": 1}] * 3), "batches are of type dict"),
    ],
)
def test_what_holds_no_examples_is_refused(data, message):
    with pytest.raises(TypeError, match=message):
        as_split(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TensorDataset(torch.zeros(0, 3)), "dataset is empty"),
        (TensorDataset(torch.zeros(3)), r"float32 of shape \(\); .*scalars the shape \(1,\)"),
        (TensorDataset(torch.zeros(3, 2, dtype=torch.complex64)), "complex64"),
        (Pairs([torch.zeros(2), torch.zeros(3)], range(2)), r"differ in shape: .*\(3,\)"),
        (TensorDataset(torch.tensor([[0.0], [torch.inf]])), r"x\[1, 0\] is inf"),
        (DataLoader(torch.zeros(4)), r"float32 of shape \(1,\); .* batch_size"),
        (DataLoader(Subset(TensorDataset(torch.eye(3)), [])), "loader has no batches"),
        (scipy.sparse.csr_matrix((0, 3)), r"sparse matrix is float64 of shape \(0, 3\)"),
        (scipy.sparse.csr_matrix(1j * np.eye(2)), "complex128"),
        (np.array([["a", 1]], dtype=object), "x is object"),
        (torch.zeros(3), r"give scalars the shape \(N, 1\)"),
    ],
)
def test_numbers_that_are_no_examples_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        as_split(data)


FORMS = {
    "array": lambda x: x.numpy().astype(">i2"),
    "bits": lambda x: x.numpy().astype(bool),
    "frame": lambda x: pd.DataFrame(x.numpy().astype(np.int8)),
    "sparse": lambda x: scipy.sparse.csc_matrix(x.numpy()),
    "dataset": lambda x: TensorDataset(x, torch.zeros(len(x))),
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=7),
    "tensor": lambda x: x,
}

DOORS = {
    "evaluate": lambda vae, x: evaluate(vae, x, samples=3).per_example.log_evidence,
    "mixture": lambda vae, x: (
        evaluate(vae, x, proposal="mixture", samples=50).per_example.log_evidence
    ),
    "quadrature": lambda vae, x: (
        evaluate(vae, x, method="quadrature", limit=2).per_example.log_evidence
    ),
    "per_example": lambda vae, x: per_example(vae, x, samples=2).elbo,
    "by column": lambda vae, x: reconstruction_by_element(vae, x, samples=2)[20].value,
    "ledger": lambda vae, x: ledger(vae, x, samples=(5,)).quadrature.value,
    "encodings": lambda vae, x: torch.cat(encodings(vae, x)),
    "score": lambda vae, x: score(vae, x, samples=20).log_evidence,
    "impute": lambda vae, x: impute(vae, x, np.arange(64) < 32, samples=20).mean,
    "activity": activity,
    "active_units": active_units,
    "aggregate_draws": lambda vae, x: aggregate_draws(vae, x, draws=2).z,
    "compare_gradients": lambda vae, x: (
        compare_gradients(vae, x, draws=3).estimators[0].noise.variance.value
    ),
    "gap": lambda vae, x: gap(vae, x, images=2, samples=10, steps=2, nuts=None).elbo.value,
    "change": lambda vae, x: change(vae, vae, x, samples=2).elbo.after.value,
}


@pytest.fixture
def table(network, digits):
    """A VAE of binary tables of 64 columns, and twelve rows."""
    vae = VAE(StandardNormal(2), Bernoulli(2, (64,), network), DiagonalNormal(2, (64,), network))
    return vae, digits[:12].flatten(1)


@pytest.mark.filterwarnings("ignore:.*effective sample size")
@pytest.mark.parametrize("door", DOORS)
def test_every_function_takes_every_form_of_the_same_examples(table, door):
    vae, x = table
    expected = torch.as_tensor(DOORS[door](vae, Split.from_array(x)))
    assert expected.isfinite().all()
    for make in FORMS.values():
        assert torch.equal(torch.as_tensor(DOORS[door](vae, make(x))), expected)


def test_a_dataset_of_three_parts_is_refused_where_one_is_asked_for(table):
    with pytest.raises(TypeError, match=r"give its test part \(dataset\.test\)"):
        evaluate(table[0], load("digits"))


def test_a_shuffled_loader_is_evaluated_on_all_of_its_examples(table):
    vae, x = table
    loader = DataLoader(x, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(0))
    found = evaluate(vae, loader, method="quadrature").per_example.log_evidence
    expected = evaluate(vae, x, method="quadrature").per_example.log_evidence
    assert not torch.equal(found, expected)
    assert torch.allclose(found.sort()[0], expected.sort()[0], atol=1e-9)


@pytest.mark.parametrize("bits", [0x7FA00000, 0xFFA00000])
def test_a_signaling_nan_is_a_gap_like_any_other(tmp_path, bits):
    """The processor raises a flag where it computes with one, of which NumPy warns."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    quiet = x.copy()
    x.view(np.uint32)[2, 1], quiet[2, 1] = bits, np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "quiet.npy", quiet)
    found, expected = (load(str(tmp_path / f"{name}.npy")) for name in ("x", "quiet"))
    for part in ("train", "validation", "test"):
        rows = (getattr(data, part) for data in (found, expected))
        np.testing.assert_equal(*(r.batch(np.arange(len(r))).numpy() for r in rows))
    assert found.train.gaps
