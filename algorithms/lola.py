"""Learning with opponent-learning awareness (LOLA) and its exact-gradient family.

The opponent j is assumed to take the naive step ``eta grad_j V_j``. Three different
updates are called LOLA in the literature; here they are three learners. With the own
gradient g, the look-ahead term A and the shaping term S of the view:

=============  =====================================  ==================================
name           direction                              who means it by "LOLA"
=============  =====================================  ==================================
lookahead      g + eta A                              Zhang & Lesser 2010 (Taylor)
lola           g + eta S                              Foerster et al. 2018, eq. 4.4
lola-full      g + eta (A + S)                        Letcher et al. 2019 (SOS), M-FOS
lola-exact     grad_i V_i(theta_i, theta_-i + eta..)  Willi et al. 2022 (COLA), POLA
hola           lola-exact against order n-1           Foerster et al. 4.5; Willi et al.
=============  =====================================  ==================================
"""

import jax

from shaping_bench.algorithms.core import GradientLearner, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.views import replaced

FOERSTER = "Foerster et al., AAMAS 2018"


@pytree_dataclass
class ShapingLearner(GradientLearner):
    """A gradient learner that assumes a step size of its opponents."""

    lookahead_lr: float = field(1.0, "step the opponents are assumed to take, on unnormalised values", low=0.0)


@pytree_dataclass
class LookAhead(ShapingLearner):
    """``g + eta A``: the own gradient where the opponents will be, their step held constant.

    First-order expansion, as the SOS paper uses it: LOLA minus its shaping term.
    """

    source = "Zhang & Lesser, AAAI 2010; Letcher et al., ICLR 2019, section 4"

    def direction(self, view: View) -> Tree:
        return trees.add(view.gradient(), view.lookahead_term(), self.lookahead_lr)


@pytree_dataclass
class LOLA(ShapingLearner):
    """``g + eta S``: the LOLA paper's update, which drops the dependence of grad_j V_i on the
    own parameters."""

    source = f"{FOERSTER}, eq. 4.4"

    def direction(self, view: View) -> Tree:
        return trees.add(view.gradient(), view.shaping_term(), self.lookahead_lr)


@pytree_dataclass
class LOLAFull(LookAhead):
    """``g + eta (A + S)``: LookAhead plus the shaping term, both second-order terms of the
    Taylor expansion of ``V_i(theta_i, theta_-i + eta grad V_-i)``."""

    source = "Letcher et al., ICLR 2019, section 3; Willi et al., ICML 2022"

    def direction(self, view: View) -> Tree:
        lookahead = super().direction(view)
        return trees.add(lookahead, view.shaping_term(), self.lookahead_lr)


@pytree_dataclass
class LOLAExact(ShapingLearner):
    """Differentiates through k naive steps of the opponents:
    ``grad_i V_i(theta_i, y_k(theta_i))`` with ``y_{m+1} = y_m + eta grad_j V_j(theta_i, y_m)``."""

    source = "Willi et al., ICML 2022 (exact LOLA); Foerster et al., ICML 2018, section 4"

    lookahead_steps: int = field(1, "number of imagined steps of the opponents", low=0, static=True, small=1)

    def direction(self, view: View) -> Tree:
        def anticipated_value(own: Tree) -> jax.Array:
            imagined = view.at(replaced(view.params, view.player, own))
            for _ in range(self.lookahead_steps):
                steps = {j: imagined.gradient(of=j, wrt=j) for j in view.others}
                imagined = imagined.moved(steps, self.lookahead_lr)
            return imagined.value()

        return jax.grad(anticipated_value)(view.own)


@pytree_dataclass
class HOLA(ShapingLearner):
    """Higher-order LOLA: the opponents are modelled as learners of order n - 1; order 0 is
    naive, order 1 LOLA.

    ``expansion="exact"`` is COLA's recursion (Willi et al., section 4.2),
    ``h_i^n = eta grad_i [V_i(theta_i, theta_-i + h_-i^{n-1}(theta))]`` with
    ``h_i^0 = eta grad_i V_i``; the direction is ``h_i^n / eta``.
    ``expansion="taylor"`` extends the LOLA paper's first-order update (section 4.5),
    ``h_i^n = eta [grad_i V_i + sum_j (grad_i h_j^{n-1})' grad_j V_i]``; whether the inner
    grad_j V_i is differentiated again is not published, so it is a switch.
    """

    source = f"{FOERSTER}, section 4.5; Willi et al., ICML 2022, section 4.2"

    order: int = field(2, "order n; 0 is naive, 1 is LOLA", low=0, high=8, static=True)
    expansion: str = field("exact", "recursion used", choices=("exact", "taylor"), static=True)
    differentiate_inner: bool = field(
        True, "Taylor recursion only: differentiate grad_j V_i inside the opponent's step", static=True
    )

    def direction(self, view: View) -> Tree:
        recursion = self._exact if self.expansion == "exact" else self._taylor
        return recursion(view, self.order)

    def _exact(self, view: View, order: int) -> Tree:
        if order == 0:
            return view.gradient()
        i = view.player

        def anticipated_value(own: Tree) -> jax.Array:
            here = view.at(replaced(view.params, i, own))
            steps = {j: self._exact(here.seat(j), order - 1) for j in view.others}
            return here.moved(steps, self.lookahead_lr).value()

        return jax.grad(anticipated_value)(view.own)

    def _taylor(self, view: View, order: int) -> Tree:
        if order == 0:
            return view.gradient()
        i = view.player
        worth = {j: view.gradient(of=i, wrt=j) for j in view.others}
        if order < self.order and not self.differentiate_inner:
            worth = jax.lax.stop_gradient(worth)
        # The transposed Jacobian of the opponents' steps, applied to what they are worth.
        _, pullback = jax.vjp(
            lambda own: {
                j: self._taylor(
                    view.at([own if k == i else theta for k, theta in enumerate(view.params)]).seat(j), order - 1
                )
                for j in view.others
            },
            view.own,
        )
        (shaping,) = pullback(worth)
        return trees.add(view.gradient(), shaping, self.lookahead_lr)
