"""Names of tables as nodes of the hierarchy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.format.layout import is_node_path
from sharkstore.write.names import node_name, unique_nodes


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("emb.user.weight", "emb.user.weight"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        ("__x", "%5F%5F%78"),
        ("ü", "%C3%BC"),
        ("", "~"),
        ("zarr.json", "%7A%61%72%72%2E%6A%73%6F%6E"),
        ("a~1", "a%7E1"),
    ],
)
def test_names_are_percent_encoded_where_they_must(name, node):
    assert node_name(name) == node


@given(st.lists(st.text(min_size=1, max_size=300), unique=True, max_size=20))
def test_nodes_are_unique_whatever_the_case_and_safe(names):
    nodes = unique_nodes(names)
    assert list(nodes) == names
    assert len({node.casefold() for node in nodes.values()}) == len(names)
    assert all(is_node_path(f"tables/{node}") for node in nodes.values())
