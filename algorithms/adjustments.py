"""Gradient adjustments: rules that bend the simultaneous gradient towards fixed points.

All are written for the joint vector (see ``algorithms.joint`` for signs) and defined for
any number of players. The forms are those of the SOS authors' notebook, which is where
they meet LOLA and SOS on the same games.
"""

import jax
import jax.numpy as jnp

from algorithms import joint, trees
from algorithms.base import GradientLearner, View, field, pytree_dataclass
from algorithms.trees import Tree


@pytree_dataclass
class SGA(GradientLearner):
    """Symplectic gradient adjustment with alignment: ``xi + lambda A' xi`` with
    ``lambda = sign(<xi, H' xi> <A' xi, H' xi> / d + eps)``, A the antisymmetric part of H."""

    source = "Balduzzi et al., ICML 2018, Algorithm 1; SOS official notebook, cell 4"

    eps: float = field(0.1, "offset of the alignment sign", low=0.0)

    def direction(self, view: View) -> Tree:
        g = joint.simultaneous_gradient(view)
        transposed = joint.transposed_jacobian_product(view, g)  # J'G = H' xi
        symplectic = trees.scale(0.5, trees.add(transposed, joint.jacobian_product(view, g), -1.0))  # A' xi
        size = sum(x.size for x in jax.tree.leaves(view.params))
        alignment = -trees.dot(g, transposed) * trees.dot(symplectic, transposed)
        sign = jnp.sign(alignment / size + self.eps)
        return trees.add(g[view.player], symplectic[view.player], -sign)


@pytree_dataclass
class Consensus(GradientLearner):
    """Consensus optimisation: ``xi + penalty H' xi``, which also descends ``|xi|^2 / 2``."""

    source = "Mescheder, Nowozin, Geiger, NeurIPS 2017"

    penalty: float = field(1.0, "weight of the squared gradient norm", low=0.0)

    def direction(self, view: View) -> Tree:
        g = joint.simultaneous_gradient(view)
        pull = joint.transposed_jacobian_product(view, g)
        return trees.add(g[view.player], pull[view.player], -self.penalty)


@pytree_dataclass
class Extragradient(GradientLearner):
    """The simultaneous gradient at the point that one simultaneous step leads to."""

    source = "Korpelevich 1976; Azizian et al., arXiv 1906.05945"

    def direction(self, view: View) -> Tree:
        steps = dict(enumerate(joint.simultaneous_gradient(view)))
        return view.moved(steps, self.lr).gradient()


@pytree_dataclass
class CGD(GradientLearner):
    """Competitive gradient descent: ``(I + lr H_o)^-1 xi``, the Nash equilibrium of the local
    bilinear game; H_o holds the blocks between different players."""

    source = "Schafer & Anandkumar, NeurIPS 2019; n players as in the SOS official notebook"

    def direction(self, view: View) -> Tree:
        g, jacobian, unravel, sizes = joint.dense(view)
        system = jnp.eye(g.size, dtype=g.dtype) - self.lr * joint.off_diagonal(jacobian, sizes)
        return unravel(jnp.linalg.solve(system, g))[view.player]


@pytree_dataclass
class LSS(GradientLearner):
    """Local symplectic surgery as the SOS notebook has it: ``(I + H' H^+) xi / 2`` with
    ``H^+ = H^-1``, or ``(H'H + ridge I)^-1 H'`` where H is singular to working precision."""

    source = "Mazumdar, Jordan, Sastry, arXiv 1901.00838; SOS official notebook, cell 4"

    ridge: float = field(0.1, "regularisation where H is singular", low=0.0, exclusive=True)

    def direction(self, view: View) -> Tree:
        g, jacobian, unravel, _ = joint.dense(view)
        identity = jnp.eye(g.size, dtype=g.dtype)
        singular = jnp.linalg.det(jacobian) == 0
        inverse = jnp.linalg.solve(jnp.where(singular, identity, jacobian), g)
        gram = jacobian.T @ jacobian + self.ridge * identity
        pseudo_inverse = jnp.linalg.solve(gram, jacobian.T @ g)
        surgery = jacobian.T @ jnp.where(singular, pseudo_inverse, inverse)
        return unravel(0.5 * (g + surgery))[view.player]
