"""Gradient adjustments: rules that bend the simultaneous gradient towards fixed points.

All are written for the joint vector (see ``shaping_bench.algorithms.parts.joint`` for signs) and defined for
any number of players. The forms are those of the SOS authors' notebook, which is where
they meet LOLA and SOS on the same games.
"""

import jax
import jax.numpy as jnp

from shaping_bench.algorithms.core import GradientLearner, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts import joint


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
        i, gradient = view.player, joint.simultaneous_gradient(view)
        if view.n_players == 2:  # half the system: the other's step is g_j + lr J_ji d_i
            j = 1 - i
            there, back = joint.jacobian_block(view, i, j), joint.jacobian_block(view, j, i)
            own, other = (joint.concatenated(gradient[k : k + 1]) for k in (i, j))
            system = jnp.eye(own.size, dtype=own.dtype) - self.lr * self.lr * joint.product(there, back)
            step, _ = joint.solve(system, own + self.lr * joint.product(there, other))
            return joint.block(view, i, step)
        g, owner = joint.concatenated(gradient), joint.owners(view)
        between = jnp.where(owner[:, None] == owner[None, :], 0.0, joint.jacobian(view))
        step, _ = joint.solve(jnp.eye(g.size, dtype=g.dtype) - self.lr * between, g)
        return joint.block(view, i, step[owner == i])


@pytree_dataclass
class LSS(GradientLearner):
    """Local symplectic surgery as the SOS notebook has it: ``(I + H' H^+) xi / 2`` with
    ``H^+ = H^-1``, or ``(H'H + ridge I)^-1 H'`` where ``det H`` is zero in floating point."""

    source = "Mazumdar, Jordan, Sastry, arXiv 1901.00838; SOS official notebook, cell 4"

    ridge: float = field(0.1, "regularisation where H is singular", low=0.0, exclusive=True)

    def direction(self, view: View) -> Tree:
        g, jacobian = joint.concatenated(joint.simultaneous_gradient(view)), joint.jacobian(view)
        inverse, determinant = joint.solve(jacobian, g)
        gram = joint.product(jacobian.T, jacobian) + self.ridge * jnp.eye(g.size, dtype=g.dtype)
        pseudo_inverse, _ = joint.solve(gram, joint.product(jacobian.T, g))
        surgery = joint.product(jacobian.T, jnp.where(determinant == 0, pseudo_inverse, inverse))
        return joint.block(view, view.player, (0.5 * (g + surgery))[joint.owners(view) == view.player])
