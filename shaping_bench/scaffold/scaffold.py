"""``shaping-bench new``: a working algorithm or game to change, with its test and its suite.

In a checkout of this repository the files go to their places and the name is registered; elsewhere
they make a small package whose ``pyproject.toml`` says the name.
"""

import dataclasses
import importlib.util
import itertools
import keyword
import re
import shutil
import string
import sys
from pathlib import Path
from typing import Literal

from shaping_bench.errors import BadInput
from shaping_bench.spec import registry

Kind = Literal["exact", "sampled", "prepares", "game"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written, and what to do next.

    Attributes:
      files: new or changed files.
      commands: shell commands, in order.
      note: what else is left to the user, if anything.
    """

    files: tuple[Path, ...]
    commands: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        lines = ["Wrote", *(f"  {file}" for file in self.files)]
        if self.note:
            lines += ["", self.note]
        return "\n".join([*lines, "", "Next", *(f"  {command}" for command in self.commands)])


def is_checkout(folder: Path) -> bool:
    """Whether a folder is the root of this repository's source tree."""
    return all((folder / name / "__init__.py").is_file() for name in ("algorithms", "games", "shaping_bench"))


def new(kind: Kind, name: str, folder: Path | None = None) -> Written:
    """Writes a new algorithm or game.

    Args:
      kind: an exact rule, one that plays (``sampled``), one that ``prepares``, or a game.
      name: what it will be called in suites and tables, in kebab-case.
      folder: a checkout of this repository, or where the package goes; by default the current folder
        if it is a checkout, and a new one of that name otherwise.

    Raises:
      BadInput: the name is not kebab-case or taken, or a file exists already; nothing is written then.
    """
    what = "game" if kind == "game" else "algorithm"
    _check_name(what, name)
    root = folder if folder is not None else Path(".") if is_checkout(Path(".")) else Path(name)
    inside = is_checkout(root)
    module = name.replace("-", "_")
    package = "games" if what == "game" else "algorithms"
    if not inside:
        _check_module(name, module, root)
    words = {
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "cls": "".join(part.capitalize() for part in name.split("-")),
        "module": f"{package}.{module}" if inside else module,
        "group": f"shaping_bench.{package}",
    }
    source, test, suite = _TEMPLATES[kind]
    if not inside or kind == "game":  # registered algorithms are met by the kit in the tests of the repository
        test = test.replace("\n\n\n", f"\n{_KIT_IMPORT[what]}\n\n\n", 1) + f"\n\n{_KIT[what]}"
    places = (
        {
            root / package / f"{module}.py": source,
            root / "tests" / package / f"test_{module}.py": test,
            root / "configs" / "suites" / f"{name}.yaml": suite,
        }
        if inside
        else {root / f"{module}.py": source, root / f"test_{module}.py": test, root / f"{name}.yaml": suite}
    )
    note, project = "", root / "pyproject.toml"
    if not inside and project.exists():
        entry = f'[project.entry-points."{words["group"]}"]\n  {name} = "{module}:{words["cls"]}"'
        note = f"{project} is there already; add to it\n  {entry}"
    elif not inside:
        places[project] = _PROJECT
    else:
        note = (
            f"To become part of the benchmark, {name} also needs a line on a page of shaping_bench/docs and its paper "
            "in configs/references.bib (or a place in references.UNPUBLISHED); make test says so."
        )
    for file in places:
        if file.exists():
            raise BadInput(
                f"new {what} would write {str(file)!r}, which exists; allowed: another name, or another folder"
            )
    registered = _registered(root / package / "__init__.py", what, words) if inside else {}
    own = {"algorithms", "games", "shaping_bench"} if inside else {module}
    texts = {
        file: _with_sorted_imports(string.Template(text).substitute(words), own)
        if file.suffix == ".py"
        else string.Template(text).substitute(words)
        for file, text in places.items()
    }
    for file, text in {**texts, **registered}.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        except OSError as error:
            raise BadInput(
                f"new {what} cannot write {str(file)!r} ({error.strerror}); allowed: a writable folder"
            ) from None
    there = () if root.resolve() == Path.cwd() else (f"cd {root}",)
    # As the user can type it: with the environment not activated, the command is on no path.
    active = shutil.which("shaping-bench") is not None
    python = "python" if active else sys.executable
    program = "shaping-bench" if active else f"{python} -m shaping_bench"
    where = name if inside else f"{name}.yaml"
    tests = next(str(file.relative_to(root)) for file in places if file.name.startswith("test_"))
    commands = (
        *there,
        f"{program} check {name}",
        f"{python} -m pytest -q {tests}",
        f"{program} run {where} -o results/{name}",
    )
    return Written((*texts, *registered), commands, note)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        hint = f", such as {near!r}" if _NAME.fullmatch(near) else ""
        raise BadInput(
            f"name of the new {what} is {name!r}; allowed: lower-case letters and digits, words joined by hyphens{hint}"
        )
    for kind, taken in (("algorithm", registry.algorithms()), ("game", registry.games())):
        if name in taken:
            raise BadInput(
                f"name of the new {what} is {name!r}, which is the name of a registered {kind}; allowed: another"
            )
    if keyword.iskeyword(name) or name == "test":
        raise BadInput(f"name of the new {what} is {name!r}, which Python reserves; allowed: another")


def _check_module(name: str, module: str, root: Path) -> None:
    """A module of this name elsewhere would be imported instead of the new one, or the other way round."""
    found = importlib.util.find_spec(module)
    if found is not None and found.origin and Path(found.origin).resolve() != (root / f"{module}.py").resolve():
        raise BadInput(f"name is {name!r}, but a Python module {module!r} is installed already; allowed: another name")


def _registered(file: Path, what: str, words: dict[str, str]) -> dict[Path, str]:
    """The registry of the repository with the new name in it.

    Raises:
      BadInput: the file is not laid out as it was.
    """
    lines = file.read_text().splitlines()
    opening = "ALGORITHMS: dict" if what == "algorithm" else "GAMES: dict"
    start = next((k for k, line in enumerate(lines) if line.startswith(opening)), None)
    end = next((k for k, line in enumerate(lines) if start is not None and k > start and line == "}"), None)
    if end is None:
        raise BadInput(
            f"{str(file)!r} has no mapping {opening.split(':')[0]} to add to; allowed: the repository's own file"
        )
    entry = (
        f'    "{words["name"]}": {words["cls"]},'
        if what == "algorithm"
        else f'    "{words["name"]}": Entry({words["cls"]}, "new", "say in a few words what it is about"),'
    )
    lines.insert(end, entry)
    line = f"from {words['module']} import {words['cls']}"
    own = [k for k, x in enumerate(lines) if x.startswith(f"from {words['module'].partition('.')[0]}.")]
    before = next((k for k in own if lines[k].split()[1] > words["module"]), own[-1] + 1)
    lines.insert(before, line)
    return {file: "\n".join(lines) + "\n"}


def _with_sorted_imports(text: str, own: set[str]) -> str:
    """Imports in the customary order: the standard library's, other packages', one's ``own``."""
    lines = text.splitlines()
    imports = [k for k, line in enumerate(lines) if line.startswith(("import ", "from "))]

    def order(line: str) -> tuple[int, bool, str]:
        module = line.split()[1]
        root = module.partition(".")[0]
        return (2 if root in own else 0 if root in sys.stdlib_module_names else 1, line.startswith("from "), module)

    found = sorted((lines[k] for k in imports), key=order)
    blocks = ["\n".join(block) for _, block in itertools.groupby(found, key=lambda line: order(line)[0])]
    return "\n".join([*lines[: imports[0]], "\n\n".join(blocks), *lines[imports[-1] + 1 :]]) + "\n"


# --- templates ----------------------------------------------------------------------------

_EXACT = '''"""$title: say in one sentence what the rule assumes of the others.

Say here where it comes from, and in what it differs from its relatives.
"""

from shaping_bench.algorithms.core import trees
from shaping_bench.algorithms.core import Access, GradientLearner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree


@pytree_dataclass
class $cls(GradientLearner):
    """``d_i = grad_i [V_i + care sum_j V_j]``, followed with step size ``lr``.

    Put your own equation here and into ``direction``.
    """

    access = Access.GRADIENTS  # what it may see of the others: ACTIONS < REWARDS < GRADIENTS < SIMULATOR
    source = "new"  # paper and equation

    # One field per hyperparameter: default, meaning, range. Suites write $name(care=0.9).
    care: float = field(0.5, "weight of the others' values", low=0.0)

    def direction(self, view: View) -> Tree:
        # Change this. The view also offers lookahead_term(), shaping_term(), gradient(of=j, wrt=i), and
        # moved({j: step}, scale) for what would be if the others had moved.
        direction = view.gradient()
        for j in view.others:
            direction = trees.add(direction, view.gradient(of=j), self.care)
        return direction
'''

_EXACT_TEST = '''"""What $name must do."""

import jax
import numpy as np
from shaping_bench.algorithms.core import View
from shaping_bench.algorithms.naive import Naive
from shaping_bench.games import make
from $module import $cls


def step(rule, params=((0.3,), (-0.2,))):
    """Where one update takes the first player of the tandem game."""
    view = View(make("tandem"), params, 0, rule.access)
    return np.array(rule.update(jax.random.key(0), (), view)[0])


def test_it_is_naive_learning_without_care():
    np.testing.assert_allclose(step($cls(lr=0.1, care=0.0)), step(Naive(lr=0.1)), rtol=1e-6)


def test_one_step_worked_out_by_hand():
    # V1 = 2x - (x + y)^2 and V2 = 2y - (x + y)^2 at x = 0.3, y = -0.2: slopes in x are 1.8 and -0.2.
    np.testing.assert_allclose(step($cls(lr=0.1, care=0.5)), [0.3 + 0.1 * (1.8 - 0.5 * 0.2)], rtol=1e-6)
'''

_EXACT_SUITE = """name: $name
description: $name beside the rules that it should be compared with.
games: [ipd, stag-hunt]
learners: [$name, naive, lola]
seeds: 50
metrics: [return, cooperation]
"""

_SAMPLED = '''"""$title: say in one sentence what the rule learns from play.

Say here where it comes from, and in what it differs from its relatives.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from shaping_bench.algorithms.core import trees
from shaping_bench.algorithms.core import Access, Info, Learner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.rollouts import taken
from shaping_bench.algorithms.core.trees import Tree
from jax import Array


@pytree_dataclass
class $cls(Learner):
    """``theta <- theta + lr * mean_b [(R_b - mean R) grad log pi_b]``, with R the sum of an episode's rewards.

    Put your own equation here and into ``update``.
    """

    access: ClassVar[Access] = Access.ACTIONS  # of the others it sees what they do, not what they earn
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    source = "new"  # paper and equation

    # One field per hyperparameter: default, meaning, range. Static ones change shapes and cannot be swept.
    lr: float = field(0.1, "own step size", low=0.0)
    batch_size: int = field(256, "episodes per update", low=2, static=True)

    # What plays is a memory-one policy; define policy(self, game, player) for networks, see algorithms/policies.py.
    # What is remembered between updates is the state, which init returns beside the first policy.

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        # Change this. Random numbers come from `key`, episodes from the view: those of all who ask alike are shared.
        play = view.play(self.batch_size)
        returns = jnp.sum(play.rewards(), axis=0)  # (batch,)
        advantages = returns - jnp.mean(returns)

        def surrogate(theta: Tree) -> Array:
            logits = view.policy.unroll(theta, play.observations()[:-1])  # (time, batch, actions)
            return jnp.mean(advantages * jnp.sum(taken(logits, play.actions()), axis=0))

        slope = jax.grad(surrogate)(view.own)
        return trees.add(view.own, slope, self.lr), state, {"mean_return": jnp.mean(returns)}
'''

_SAMPLED_TEST = '''"""What $name must do."""

from shaping_bench.algorithms.fixed import AllD
from shaping_bench.games import make
from $module import $cls
from shaping_bench.run.encounter import run_encounter


def test_it_learns_to_defect_from_who_always_defects():
    rule = $cls(lr=0.5, batch_size=64)
    outcome = run_encounter(make("ipd", horizon=8), [rule, AllD()], num_seeds=2, num_updates=60)
    first, last = outcome.params[0][0], outcome.params[0][-1]  # logits of cooperation in [start, CC, CD, DC, DD]
    assert (last[:, 0] < first[:, 0]).all()
    assert (last[:, 4] < first[:, 4]).all()
'''

_SAMPLED_SUITE = """name: $name
description: $name beside the rules that it should be compared with.
games: [ipd]
learners: [$name, naive-pg(batch_size=256), lola-pg(batch_size=256)]
opponents: [tft]
seeds: 8
steps: 100
metrics: [return, cooperation]
"""

_PREPARES = '''"""$title: say in one sentence what is learned before anybody is met.

Say here where it comes from, and in what it differs from its relatives.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from shaping_bench.algorithms.core import costs, trees
from shaping_bench.algorithms.core import Access, Info, PreparedLearner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game
from jax import Array


@pytree_dataclass
class $cls(PreparedLearner):
    """Starts where naive learners end on average in imagined encounters, and then learns naively.

    Put your own idea here, into ``prepare_step`` (what is learned) and ``init`` or ``update`` (how it is used).
    """

    access: ClassVar[Access] = Access.GRADIENTS
    source = "new"  # paper and equation

    lr: float = field(1.0, "own step size, on unnormalised values", low=0.0)
    num_steps: int = field(200, "steps of preparation", low=1, static=True)
    imagined_updates: int = field(50, "updates of an imagined encounter", low=1, static=True)
    imagined_lr: float = field(1.0, "step size in imagined encounters", low=0.0)
    rate: float = field(0.05, "weight of the newest encounter in the average", low=0.0, high=1.0)

    @property
    def preparation_steps(self) -> int:
        return self.num_steps

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        # Arrays only; looping, checkpoints and storage are the harness's.
        return jnp.asarray(game.init_params(key, player), jnp.result_type(float))

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        keys = jax.random.split(key, game.n_players)
        start = tuple(jnp.asarray(game.init_params(k, i), carry.dtype) for i, k in enumerate(keys))

        def updated(_: int, params: tuple[Array, ...]) -> tuple[Array, ...]:
            view = View(game, params, player, self.access)
            return tuple(trees.add(x, view.gradient(of=i, wrt=i), self.imagined_lr) for i, x in enumerate(params))

        with costs.repeated(self.imagined_updates):  # a loop's body is traced once, and charged as often as it runs
            end = jax.lax.fori_loop(0, self.imagined_updates, updated, start)
        return carry + self.rate * (end[player] - carry), {"imagined_value": game.value(end, player)}

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        start, state = super().init(key, game, player)
        return (start if artifact is None else artifact), state

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        return trees.add(view.own, view.gradient(), self.lr), state, {}
'''

_PREPARES_TEST = '''"""What $name must do."""

import jax
import numpy as np
from shaping_bench.games import make
from $module import $cls


def test_it_prepares_to_start_where_naive_learners_end():
    game, rule = make("tandem"), $cls(imagined_lr=0.1, rate=1.0)
    carry = rule.prepare_init(jax.random.key(0), game, 0)
    carry, _ = rule.prepare_step(jax.random.key(1), 0, carry, game, 0)
    (x,), _ = rule.init(jax.random.key(2), game, 0, rule.artifact(carry))
    # Naive learners of the tandem game end on x + y = 1 and keep the difference that they started with.
    starts = [game.init_params(k, i)[0] for i, k in enumerate(jax.random.split(jax.random.key(1)))]
    np.testing.assert_allclose(x, 0.5 + (starts[0] - starts[1]) / 2, rtol=1e-4)
'''

_PREPARES_SUITE = """name: $name
description: $name beside the rules that it should be compared with.
games: [ipd, stag-hunt]
learners: [$name, naive, lola]
seeds: 50
preparations: 2
metrics: [return, cooperation]
"""

_GAME = '''"""$title: say in one sentence what is at stake.

Say here where the numbers come from.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from shaping_bench.games.base import Game, Params
from shaping_bench.games.fields import field, pytree_dataclass
from jax import Array


@pytree_dataclass
class $cls(Game):
    """Two firms choose quantities x and y; the price is ``demand - x - y``: ``V1 = x (demand - x - y)``.

    Put your own game here. What each player chooses is its policy parameters, ``sizes`` many numbers;
    ``value`` must be differentiable in all of them. Values ascend: negate losses.
    """

    demand: float = field(3.0, "price when nothing is sold", low=0.0, exclusive=True)
    init_mean: float = field(1.0, "mean of the initial quantities")
    init_std: float = field(0.1, "standard deviation of the initial quantities", low=0.0)

    @property
    def n_players(self) -> int:
        return 2

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1, 1)

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        return (("x",), ("y",))

    @property
    def symmetric(self) -> bool:
        # Exchanging the players exchanges their values; say False if not. So too zero_sum.
        return True

    def value(self, params: Sequence[Params], player: int) -> Array:
        # Change this. A player's parameters unpack into scalars.
        (x,), (y,) = params
        price = self.demand - x - y
        return (x, y)[player] * price

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        # Leave this out where there is no closed form.
        (other,) = params[1 - player]
        return ((self.demand - other) / 2,)

    def observables(self, params: Sequence[Params]) -> Mapping[str, Array]:
        # Whatever else is worth measuring, one number per player.
        (x,), (y,) = params
        return {"price": jnp.stack([self.demand - x - y] * 2)}
'''

_GAME_TEST = '''"""What $name must do."""

import numpy as np
from shaping_bench.algorithms.naive import Naive
from $module import $cls
from shaping_bench.run.encounter import run_encounter


def test_naive_learners_find_the_equilibrium():
    # x = (demand - y) / 2 for both: x = y = demand / 3.
    outcome = run_encounter($cls(demand=3.0), [Naive(lr=0.1)] * 2, num_seeds=4, num_updates=300)
    np.testing.assert_allclose([theta[-1] for theta in outcome.params], 1.0, atol=1e-3)
'''

_GAME_SUITE = """name: $name
description: What becomes of learners in $name.
games:
  - game: $name
    set: {lr: 0.1, lookahead_lr: 0.1}
learners: [naive, lookahead, lola]
seeds: 50
metrics: [return, welfare]
"""

_KIT_IMPORT = {
    "algorithm": "from shaping_bench.conformance.kit import check_learner",
    "game": "from shaping_bench.conformance.kit import check_game",
}

_KIT = {
    "algorithm": """def test_it_is_a_good_citizen():
    assert [str(finding) for finding in check_learner($cls) if not finding.passed] == []
""",
    "game": """def test_it_is_a_good_citizen():
    assert [str(finding) for finding in check_game($cls) if not finding.passed] == []
""",
}

_PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
dependencies = ["shaping-bench"]

# The name under which suites know it. In this folder it is known as it stands; elsewhere after pip install -e.
[project.entry-points."$group"]
$name = "$module:$cls"

[tool.setuptools]
py-modules = ["$module"]
"""

_TEMPLATES: dict[Kind, tuple[str, str, str]] = {
    "exact": (_EXACT, _EXACT_TEST, _EXACT_SUITE),
    "sampled": (_SAMPLED, _SAMPLED_TEST, _SAMPLED_SUITE),
    "prepares": (_PREPARES, _PREPARES_TEST, _PREPARES_SUITE),
    "game": (_GAME, _GAME_TEST, _GAME_SUITE),
}
"""Of each kind the source, its test and its suite."""
