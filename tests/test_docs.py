"""The website shows every public name: each of them can be documented, and one that cannot is found."""
import importlib
import inspect
import pkgutil
import warnings

import pytest
from nbdev.showdoc import show_doc

import hybrid_ssm

ROOMS = [m.name for m in pkgutil.iter_modules(hybrid_ssm.__path__) if not m.name.startswith("_")]


def shown_parts(thing):
    "What the website prints for a public name: itself and, for a class, its public methods"
    methods = vars(thing).items() if inspect.isclass(thing) else ()
    return [thing, *(m for name, m in methods if inspect.isfunction(m) and name[0] != "_")]


def undocumented(things):
    "Those of `things` whose page would break, with the reason"
    broken = []
    for thing in (part for whole in things for part in shown_parts(whole)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # docstring dialects of the libraries we inherit from
                show_doc(thing)
        except Exception as error:
            broken.append(f"{thing.__qualname__}: {error!r}")
    return broken


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_page(room):
    module = importlib.import_module(f"hybrid_ssm.{room}")
    public = [getattr(module, name) for name in getattr(module, "__all__", ())]
    assert undocumented(p for p in public if inspect.isclass(p) or inspect.isfunction(p)) == []


def test_a_name_without_a_page_is_found():
    def planted(x: "Nowhere"):  # noqa: F821
        "An annotation that nobody can resolve"
    assert len(undocumented([planted])) == 1
