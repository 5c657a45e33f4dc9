"""What can be written for a component is what its constructor takes, and nothing else."""

import sys

import pytest
from torch import nn

from pyrovae._process.choices import nearest
from pyrovae.priors import PRIORS, GaussianMixture, Laplace
from pyrovae.runs import FAMILIES, Option, Spec, context_of, find, options_of, resolve, write

ENTRIES = [(role, name) for role, family in FAMILIES.items() for name in family]

OWN = """
from pathlib import Path
Path("imported").touch()
from torch import nn
class Mine(nn.Module):
    def __init__(self, latent_dim, *, rate=1.0, deep=False):
        super().__init__()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own in the working folder, which leaves a mark when imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_components.py").write_text(OWN)
    yield tmp_path / "imported"
    sys.modules.pop("own_components", None)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("laplace", "laplace", {}),
        ("laplace:scale=2", "laplace", {"scale": "2"}),
        ("mlp:hidden_dims=5-5,dropout=0.1", "mlp", {"hidden_dims": "5-5", "dropout": "0.1"}),
        ("module:Class", "module:Class", {}),
        ("a.b:Class:rate=2.0", "a.b:Class", {"rate": "2.0"}),
    ],
)
def test_a_spec_is_read_and_written(text, name, options):
    spec = Spec.parse(text)
    assert (spec.name, spec.options, str(spec)) == (name, options, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no name in ''"),
        (":", "nothing follows the colon"),
        ("laplace:", "nothing follows the colon"),
        (":scale=2", "no name"),
        ("laplace:scale=", "cannot read 'scale='"),
        ("laplace:scale=1,scale=2", "scale is given twice"),
        ("m:C:rate", "cannot read 'rate'"),
    ],
)
def test_another_form_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Spec.parse(text)


@pytest.mark.contract
@pytest.mark.parametrize(("role", "name"), ENTRIES)
def test_every_default_is_read_back_from_its_text(role, name):
    for option in options_of(FAMILIES[role][name]).values():
        value = option.read(write(option.default))
        assert value == option.default or list(value) == list(option.default)


@pytest.mark.contract
@pytest.mark.parametrize(("role", "name"), ENTRIES)
def test_a_resolved_spec_resolves_to_itself(role, name):
    component = FAMILIES[role][name]
    spec, _ = resolve(role, component, Spec(name, {}), {})
    assert resolve(role, component, Spec.parse(str(spec)), {})[0] == spec


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "7", 7),
        (float, "1e-3", 1e-3),
        (float | None, "none", None),
        (bool, "no", False),
        (str, "none", "none"),
        (tuple[int, ...], "3-4", (3, 4)),
    ],
)
def test_text_is_read_as_its_option_says(annotation, text, value):
    assert Option("x", annotation, None).read(text) == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2.5),
        (int, True),
        (int, "many"),
        (int, [1]),
        (float, "nan"),
        (float, float("inf")),
        (str, 3),
        (str, {"a": 1}),
        (tuple[int, ...], "abc"),
    ],
)
def test_a_value_of_another_kind_is_refused(annotation, value):
    with pytest.raises(ValueError, match="x takes"):
        Option("x", annotation, None).take(value)


def test_wrong_names_and_keys_suggest_the_nearest():
    assert nearest("lapalce", PRIORS) == " (did you mean 'laplace'?)"
    assert nearest("zzz", PRIORS) == ""
    with pytest.raises(ValueError, match=r"'lapalce' \(did you mean 'laplace'\?\); or write"):
        find("prior", PRIORS, Spec.parse("lapalce"), ())
    with pytest.raises(ValueError, match=r"no option 'scales' \(did you mean 'scale'\?\)"):
        resolve("prior", Laplace, Spec.parse("laplace:scales=1"), {})
    with pytest.raises(ValueError, match="it has no options"):
        resolve("prior", PRIORS["normal"], Spec.parse("normal:scale=1"), {})
    with pytest.raises(ValueError, match=r"components takes an integer, got '2\.5'"):
        resolve("prior", GaussianMixture, Spec.parse("mixture:components=2.5"), {})
    with pytest.raises(ValueError, match="write laplace:scale=VALUE"):
        find("prior", PRIORS, Spec.parse("laplace:scale"), {"laplace:scale"})


def test_own_code_is_imported_only_when_trusted(own):
    spec = Spec.parse("own_components:Mine:rate=2.0")
    with pytest.raises(ValueError, match=r"add --prior own_components:Mine:rate=2\.0 on "):
        find("prior", PRIORS, spec, ())
    assert not own.exists()
    component = find("prior", PRIORS, spec, {"own_components:Mine"})
    assert own.exists()
    assert resolve("prior", component, spec, {})[1] == {"rate": 2.0, "deep": False}
    with pytest.raises(ImportError, match=r"no class Mime \(did you mean 'Mine'\?\); it has Mine"):
        find("prior", PRIORS, Spec.parse("own_components:Mime"), {"own_components:Mime"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (", "was never closed in line 1 of"),
        ("\n1 / 0", "ZeroDivisionError: division by zero in line 2 of"),
        ("Mine = 3", "is of type int; name a class"),
    ],
)
def test_own_code_that_fails_is_refused_in_one_line(own, source, message):
    own.with_name("own_components.py").write_text(source)
    with pytest.raises(ImportError, match=message):
        find("prior", PRIORS, Spec.parse("own_components:Mine"), {"own_components:Mine"})


def test_a_constructor_gets_what_it_asks_for_by_name():
    class Fixed(nn.Module):
        pass

    class Asks(nn.Module):
        def __init__(self, temperature):
            super().__init__()

    assert context_of(Laplace, {"latent_dim": 3, "event_shape": (2,)}) == {"latent_dim": 3}
    assert context_of(Fixed, {"latent_dim": 3}) == {}
    with pytest.raises(ValueError, match="needs 'temperature', which is not available"):
        context_of(Asks, {"latent_dim": 3})


def test_a_positional_parameter_of_own_code_is_no_option_and_says_how_to_become_one():
    class Mine(nn.Module):
        def __init__(self, latent_dim, rate=1.0):
            super().__init__()

    with pytest.raises(ValueError, match=r"to make rate one, put it after a \*"):
        resolve("prior", Mine, Spec.parse("module:Mine:rate=2"), {})
