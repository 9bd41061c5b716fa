"""Dataclasses as pytrees."""

import jax

from shaping_bench.games.fields import field, pytree_dataclass


@pytree_dataclass
class One:
    """A number, and how many."""

    x: float = field(1.0, "a number")
    many: int = field(2, "how many", static=True)


@pytree_dataclass
class Other:
    """The same fields in another class."""

    x: float = field(1.0, "a number")
    many: int = field(2, "how many", static=True)


def test_the_class_is_part_of_the_structure():
    # Else a function compiled for one would now and then be called with the other.
    assert jax.tree.structure(One()) != jax.tree.structure(Other())
    assert jax.tree.structure(One()) == jax.tree.structure(One(x=3.0))
    assert jax.tree.structure(One()) != jax.tree.structure(One(many=3))


def test_numbers_are_leaves_under_their_names():
    leaves, structure = jax.tree_util.tree_flatten_with_path(One(x=3.0, many=5))
    assert [(jax.tree_util.keystr(path), x) for path, x in leaves] == [(".x", 3.0)]
    assert structure.unflatten([4.0]) == One(x=4.0, many=5)
