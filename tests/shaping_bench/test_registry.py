"""From text and YAML to learners and back, and what identifies them."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shaping_bench.algorithms.core import Learner, field, pytree_dataclass
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.naive import Naive
from shaping_bench.errors import BadInput
from shaping_bench.spec import registry, suite

FIXTURES = Path(__file__).parent / "fixtures"


@pytree_dataclass
class Taught(Learner):
    """Stands for a rule that is prepared against somebody."""

    against: Any = field("naive", "who is met", choices=("naive", "self"), static=True, learner=True)
    lr: float = field(1.0, "step", low=0.0)
    published: ClassVar = {"ipd": {"lr": 2.0}}


@pytree_dataclass
class TaughtLater(Taught):
    """The same rule in a later version."""

    momentum: float = field(0.0, "of the steps", low=0.0, added=True)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    rules = {**registry.algorithms(), "taught": Taught}
    monkeypatch.setattr(registry, "algorithms", lambda: rules)
    return rules


# --- learners as values -------------------------------------------------------------------


def test_words_keep_their_meaning_and_identity():
    named = registry.make_learner("taught(against=self)")
    assert named.value.against == "self"
    assert named.hyperparameters == {"against": "self", "lr": 1.0}
    assert registry.make_learner("taught").hyperparameters["against"] == "naive"
    # The same word as a call is the registered learner of that name.
    assert registry.make_learner("taught(against=naive())").value.against == Naive()


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("taught(against=lola(lr=0.5))", LOLA(lr=0.5)),
        ({"taught": {"against": {"lola": {"lr": 0.5}}}}, LOLA(lr=0.5)),
        ({"taught": {"against": "lola(lr=0.5)"}}, LOLA(lr=0.5)),
        ("taught(against=[lola(lr=0.5)])", LOLA(lr=0.5)),
        ("taught(against=naive())", Naive()),
        ("taught(against=[naive,lola])", Mixture(learners=("naive", LOLA()), shares=(0.5, 0.5))),
        (
            "taught(against={naive: 0.7, lola(lr=0.5): 0.3})",
            Mixture(learners=("naive", LOLA(lr=0.5)), shares=(0.7, 0.3)),
        ),
        (
            {"taught": {"against": {"naive": 7, "lola(lr=0.5)": 3}}},
            Mixture(learners=("naive", LOLA(lr=0.5)), shares=(0.7, 0.3)),
        ),
        (
            {"taught": {"against": ["naive", {"lola": {"lr": 0.5}}, "self"]}},
            Mixture(learners=("naive", LOLA(lr=0.5), "self"), shares=(1 / 3,) * 3),
        ),
        ("taught(against=taught(against=[naive-pg,ppo(network=conv-gru)]))", None),
    ],
)
def test_learners_as_hyperparameters_go_round_between_text_value_and_record(written, value):
    named = registry.make_learner(written)
    if value is not None:
        assert named.value.against == value
    again = registry.make_learner(named.text)
    assert again.value == named.value
    assert again.identity() == named.identity()
    assert again.text == named.text
    stored = json.loads(json.dumps({named.name: named.hyperparameters}))
    assert registry.make_learner(stored).identity() == named.identity()
    assert hash(named.value.against) == hash(again.value.against)  # static data of compiled programs


def test_a_coplayer_is_recorded_with_every_number_it_has():
    named = registry.make_learner("taught(against=lola(lr=0.5))")
    assert named.hyperparameters["against"] == {"lola": {"lookahead_lr": 1.0, "lr": 0.5}}
    other = registry.make_learner("taught(against=lola(lr=0.25))")
    assert other.identity() != named.identity()


@pytest.mark.parametrize("name", ["mfos", "good-shepherd"])
def test_an_evolution_strategy_that_does_not_deviate_is_refused(name):
    with pytest.raises(BadInput, match="es_sigma is 0"):
        registry.make_learner(f"{name}(es_sigma=0)")
    assert registry.make_learner(f"{name}(es_sigma=0.001)").value.es_sigma == 0.001


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("taught(against=lolla)", "taught.against of learner is 'lolla', which is unknown; did you mean 'lola'?"),
        ("taught(against=slef)", "did you mean 'self'?"),
        ("taught(against=lola(lrr=1))", "did you mean 'lr'?"),
        ("taught(against=lola(lr=-1))", "lola.lr is -1"),
        ("taught(against=3)", "allowed: a learner, a list"),
        ("taught(against=[])", "allowed: a learner, a list"),
        ("taught(against=[naive,naive])", "names 'naive' twice"),
        ("taught(against={naive: 0.5, lola: 0})", "gives 'lola' the share 0; allowed: positive numbers"),
        ("taught(against={naive: lola, ppo: 1})", "gives 'naive' the share 'lola'"),
        ("taught(against=mfos)", "needs a preparation of its own"),
    ],
)
def test_what_is_no_coplayer_is_refused(written, expected):
    with pytest.raises(BadInput) as error:
        registry.make_learner(written)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_in_suites_a_list_of_coplayers_is_a_mixture_and_a_list_of_lists_a_sweep():
    def points(call):
        return [registry.make_learner(x).text for x in suite._sweep(call, "learner")[0]]

    assert points("taught(against=[naive,lola])") == ["taught(against=[naive,lola])"]
    assert points("taught(against=[[naive],[lola]],lr=[1,2])") == [
        "taught",
        "taught(lr=2.0)",
        "taught(against=lola)",
        "taught(against=lola,lr=2.0)",
    ]


# --- text and identity --------------------------------------------------------------------


def test_the_text_of_a_learner_names_it_on_its_game_too():
    """``lr=1`` is the rule's default, but not that of the game: text without it would be another rule."""
    named = registry.make_learner("taught(lr=1)", game="ipd")
    assert registry.make_learner(named.text, game="ipd").identity() == named.identity()
    plain = registry.make_learner("ppo(lr=0.005)", game="ipd")
    assert plain.hyperparameters["lr"] == 0.005
    assert registry.make_learner(plain.text, game="ipd").identity() == plain.identity()


def test_a_hyperparameter_that_was_added_later_identifies_nothing_at_its_default(known):
    before = registry.make_learner("taught(lr=3)").identity()
    known["taught"] = TaughtLater
    named = registry.make_learner("taught(lr=3)")
    assert named.identity() == before
    assert named.hyperparameters["momentum"] == 0.0
    assert registry.make_learner("taught(lr=3,momentum=0.5)").identity() != before


def test_what_the_first_release_stored_is_found_under_its_hashes():
    pinned = json.loads((FIXTURES / "hashes.json").read_text())
    expanded = suite.expand(suite.validate(pinned["suite"]))
    hashes = {cell.title: cell.hash for cell in (*expanded.encounters, *expanded.matches)}
    for preparation in {p.title: p for cell in expanded.encounters for p in cell.needs if p}.values():
        identity = {k: v for k, v in preparation.identity().items() if k != "source"}
        text = json.dumps(identity, sort_keys=True)
        hashes[preparation.title] = hashlib.sha256(text.encode()).hexdigest()[:24]
    assert hashes == pinned["hashes"]


# --- published numbers --------------------------------------------------------------------


def test_games_of_a_family_have_the_numbers_that_were_published_for_one_of_them():
    siblings = ["ipd", "imp", "chicken", "stag-hunt", "bos", "matrix"]
    for name in ("ppo", "loqa", "pola", "pola-om"):
        cls = registry.algorithms()[name]
        first = registry.published(cls, "ipd")
        assert first
        assert all(registry.published(cls, game) == first for game in siblings), name
        assert registry.published(cls, "coin-game") != first
        assert registry.published(cls, "tandem") == registry.published(cls, None) == {}
    assert registry.make_learner("ppo", game="chicken").hyperparameters["lr"] == 1.0


def test_the_name_of_a_game_wins_over_its_family():
    class Both(Taught):
        published: ClassVar = {"matrix": {"lr": 3.0, "against": "self"}, "imp": {"lr": 4.0}}

    assert registry.published(Both, "imp") == {"lr": 4.0, "against": "self"}
    assert registry.published(Both, "bos") == {"lr": 3.0, "against": "self"}
