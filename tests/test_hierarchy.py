"""Order of parents and children, and predictions raised to agree with them; NumPy and torch alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from longview.hierarchy import children_first, columns_of_edges, consistent
from longview.labels import LabelSet

L = 6
# a child has a higher number than its parent: no circle, any directed acyclic graph
EDGES = st.lists(st.sampled_from([(p, c) for p in range(L) for c in range(p + 1, L)]), unique=True)
PROBABILITIES = arrays.arrays(np.float32, (4, L), elements=st.floats(0, 1, width=32))


def descendants(parent, edges):
    found = {child for above, child in edges if above == parent}
    return found | {deeper for child in found for deeper in descendants(child, edges)}


@given(probabilities=PROBABILITIES, edges=EDGES, order=st.permutations(range(L)))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_each_parent_becomes_the_highest_of_itself_and_all_below_it(probabilities, edges, order):
    edges = [(order[parent], order[child]) for parent, child in edges]  # columns in any order
    before = probabilities.copy()
    found = consistent(probabilities, edges)
    expected = [before[:, [node, *descendants(node, edges)]].max(axis=1) for node in range(L)]
    np.testing.assert_array_equal(found, np.array(expected).T)
    np.testing.assert_array_equal(probabilities, before)
    np.testing.assert_array_equal(consistent(found, edges), found)
    as_tensor = consistent(torch.from_numpy(probabilities), edges)
    assert isinstance(as_tensor, torch.Tensor)
    np.testing.assert_array_equal(as_tensor.numpy(), found)


@given(edges=EDGES)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_children_come_before_their_parents(edges):
    ordered = children_first(edges)
    place = {node: number for number, node in enumerate(ordered)}
    assert {(parent, child) for parent, below in ordered.items() for child in below} == set(edges)
    assert all(place[child] < place[parent] for parent, child in edges if child in place)


def test_predictions_without_edges_stay():
    given_ = np.array([[0.1, 0.9]])
    np.testing.assert_array_equal(consistent(given_, []), given_)


def test_gradients_reach_the_child_that_a_parent_was_raised_to():
    scores = torch.tensor([[0.2, 0.7], [0.8, 0.1]], requires_grad=True)
    consistent(scores, [(0, 1)])[:, 0].sum().backward()
    assert scores.grad.tolist() == [[0, 1], [1, 0]]


def test_columns_follow_the_names():
    labels = LabelSet.load("chexpert_hierarchical")
    shuffled = labels.names[::-1]
    assert [(shuffled[parent], shuffled[child]) for parent, child in columns_of_edges(labels.edges, shuffled)] == (
        labels.edges
    )
    with pytest.raises(KeyError):
        columns_of_edges(labels.edges, ["Pneumonia"])
