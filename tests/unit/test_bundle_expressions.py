"""Expressions of bundles are worked out as Python would, as far as they are read at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.importing.bundle import ImportRefused
from training.importing.config import Config, read_config
from training.importing.expressions import Component, Named, evaluated

VALUES: dict[str, object] = {"a": 3, "b": [1, 2, 3], "c::d": 2.5, "name": "UNet"}


def value_of(text: str) -> object:
    return evaluated(text, "here", VALUES.__getitem__)


def arithmetic() -> st.SearchStrategy[str]:
    leaves = st.one_of(st.integers(-50, 50).map(lambda n: f"({n})"), st.sampled_from(["@a", "@b[1]", "@c::d", "2.5"]))
    binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "==", "<", ">=", "and", "or"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, binary, inner).map(lambda parts: f"({' '.join(parts)})"),
            inner.map(lambda one: f"(not {one})"),
            st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} if {parts[1]} else {parts[2]})"),
        ),
        max_leaves=8,
    )


@settings(max_examples=300, deadline=None)
@given(text=arithmetic())
def test_arithmetic_is_that_of_python(text: str) -> None:
    plain = text.replace("@a", "(3)").replace("@b[1]", "(2)").replace("@c::d", "(2.5)")
    try:
        wanted = eval(plain, {"__builtins__": {}}, {})
    except ArithmeticError:
        with pytest.raises(ImportRefused, match="cannot be worked out"):
            value_of(text)
        return
    found = value_of(text)
    assert found == wanted or abs(float(found) - wanted) < 1e-9  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_no_text_does_anything_but_give_a_value_or_be_refused(text: str) -> None:
    try:
        found = evaluated(text, "here", {}.__getitem__)
    except ImportRefused:
        return
    assert found is None or isinstance(found, (bool, int, float, str, list, tuple, dict, Named))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("len(@b) + int('4')", 7),
        ("[i for i in @b][0:1]", None),
        ("(1, 2.5, 'x', None, {'k': @a})", (1, 2.5, "x", None, {"k": 3})),
        ("torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')", "cpu"),
        ("torch.float32", Named("torch.float32")),
        ("monai.networks.layers.Norm.BATCH", Named("monai.networks.layers.Norm.BATCH")),
        ("@name.to('cpu')", "UNet"),
        ("-@a ** 2", -9),
    ],
)
def test_what_bundles_write_is_read(text: str, wanted: object) -> None:
    if wanted is None:
        with pytest.raises(ImportRefused):
            value_of(text)
    else:
        assert value_of(text) == wanted


def test_a_network_in_an_expression_is_described_and_not_made() -> None:
    found = value_of("monai.networks.nets.resnet.resnet50(spatial_dims=@a, n_input_channels=1)")
    assert found == Component(
        target="monai.networks.nets.resnet.resnet50", arguments={"spatial_dims": 3, "n_input_channels": 1}, place="here"
    )


def config(**raw: Any) -> Config:
    return Config("inference.json", raw)


def test_references_reach_into_tables_and_lists_in_both_spellings() -> None:
    made = config(a={"b": [10, {"c": "@d"}]}, d=7, e="@a::b::1::c", f="$@a#b#0 + 1")
    assert made.value("e") == 7
    assert made.value("f") == 11


def test_what_is_disabled_is_nothing() -> None:
    made = config(
        flag=False, one={"_target_": "X", "_disabled_": "$not @flag"}, two={"_target_": "X", "_disabled_": "@flag"}
    )
    assert made.value("one") is None
    assert made.value("two") == Component(target="X", place="inference.json: two")


def test_a_yaml_file_that_names_itself_again_and_again_is_refused() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for one, other in zip("abcdefg", "bcdefgh", strict=True):
        lines.append(f"{other}: &{other} [{', '.join([f'*{one}'] * 10)}]")
    with pytest.raises(ImportRefused, match="too long"):
        read_config("inference.yaml", "\n".join(lines).encode()).value("h")


@pytest.mark.parametrize("data", [b"[1]", b"\xff", b"{", b'{"a": 1'])
def test_a_file_that_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(ImportRefused, match=r"inference\.json"):
        read_config("inference.json", data)
