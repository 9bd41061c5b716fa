"""Claims: what a file may say, what verify makes of it, and the arithmetic of tolerances."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from shaping_bench.algorithms.lola import LOLA
from shaping_bench.analysis import stats
from shaping_bench.claims import verify as claims
from shaping_bench.claims.files import Claim, Quantity, load_claims, select
from shaping_bench.claims.record import players, read_record, record_about, record_file, recorded, to_json, to_text
from shaping_bench.claims.verify import verify
from shaping_bench.errors import BadInput
from shaping_bench.spec import registry
from shaping_bench.spec.configs import configs_folder

TANDEM_LOLA = {
    "id": "tandem-lola",
    "statement": "LOLA leaves the stable fixed points of the tandem game.",
    "source": "closed form 1 / (1 - 2a)",
    "protocol": {
        "game": "tandem",
        "learners": ["lola(lr=0.1,lookahead_lr=0.1)"],
        "steps": 200,
        "seeds": 20,
        "precision": "float64",
    },
    "quantities": [{"metric": "parameter_sum", "published": 1.25, "tolerance": 1e-9, "why": "exact"}],
}


def changed(**changes: object) -> dict:
    """The claim above with values replaced by dotted path (``__`` for the dot)."""
    claim = json.loads(json.dumps(TANDEM_LOLA))
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = claim
        for step in parents:
            node = node[int(step)] if isinstance(node, list) else node[step]
        node[last] = value
    return claim


def written(folder: Path, *entries: dict, name: str = "paper.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump({"paper": "a paper", "claims": list(entries)}))
    return folder


def complaint(folder: Path, *entries: dict) -> str:
    with pytest.raises(BadInput) as error:
        load_claims(written(folder, *entries))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the files of the repository ----------------------------------------------------------


def test_what_is_added_to_protocols_leaves_verdicts_of_older_claims_valid():
    """One of a claim with a budget of its own, one without."""
    entries, named = read_record(record_file()), load_claims()
    for name in ("aa-ipd-unshifted", "paa-ipd-control"):
        assert entries[name]["hash"] == named[name].hash


def test_recorded_verdicts_are_of_todays_defaults():
    """POLA's default network was once changed under a claim that had left it to the default."""
    entries, known = read_record(record_file()), load_claims()
    now = {name: players(claim, entries[name]["at_full_budget"]) for name, claim in known.items() if name in entries}
    assert {name for name, hashed in now.items() if hashed != entries[name].get("players")} == set()


def test_all_claims_load_and_can_be_run(monkeypatch):
    known = load_claims()
    # What is observed is found by tracing; encounters of the same games and rules observe the same.
    found, observed = {}, claims._observed

    def once(entry):
        key = (type(entry.game.value), *(type(x.value) for x in entry.learners))
        if key not in found:
            found[key] = observed(entry)
        return found[key]

    monkeypatch.setattr(claims, "_observed", once)
    assert len(known) >= 60
    shapes = {}
    for claim in known.values():
        for protocol in (claim.protocol, claim.protocol.at_full_budget()):
            game = registry.make_game(protocol.game)
            learners = [registry.make_learner(text, game=game.name) for text in protocol.learners]
            registry.check_encounter(game, learners * (1 if len(learners) > 1 else game.value.n_players))
            metrics = frozenset((q.metric, q.phase, q.against) for q in claim.quantities)
            shapes.setdefault((game.name, *(x.name for x in learners), metrics), claim)
    assert all(claims._resolve(claim).claim is claim for claim in shapes.values())
    papers = {name.split("-")[0] for name in known}
    assert {"lola", "mfos", "meva", "sos", "tandem", "cola"} <= papers


def test_every_number_has_a_source_and_an_argued_tolerance():
    for claim in load_claims().values():
        assert claim.source
        assert claim.statement
        assert all(len(q.why) > 10 for q in claim.quantities)


# --- schema -------------------------------------------------------------------------------


def test_unknown_key_is_named_with_the_nearest_one(tmp_path):
    text = complaint(tmp_path, changed(protocol__step=5))
    assert "paper.yaml.claims.0.protocol" in text
    assert "'step'" in text
    assert "did you mean 'steps'?" in text


def test_unknown_key_of_a_quantity(tmp_path):
    assert "did you mean 'tolerance'?" in complaint(tmp_path, changed(quantities__0__tolerence=1.0))


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (changed(id="Not Kebab"), "claims.0.id is 'Not Kebab'"),
        (changed(protocol__precision="float16"), "precision is 'float16'"),
        (changed(protocol__seeds=0), "seeds is 0"),
        (changed(quantities__0__aggregate="mode"), "aggregate is 'mode'"),
        (changed(quantities__0__tolerance=None), "a tolerance, or the published standard_error"),
        (changed(quantities__0__standard_error=0.1), "a tolerance, or the published standard_error"),
        (changed(quantities__0__aggregate="std"), "number of runs"),
        (changed(quantities__0__at=7), "recorded updates"),
        (changed(protocol__init={"grid": {"low": 0, "high": 1, "num": 3}}), "seeds, unless the starts are a grid"),
        (changed(protocol__init={}), "either grid or uniform"),
    ],
)
def test_inconsistent_claims_are_refused(tmp_path, claim, expected):
    assert expected in complaint(tmp_path, claim)


def test_missing_key_is_named(tmp_path):
    claim = changed()
    del claim["quantities"][0]["why"]
    assert "quantities.0.why is missing" in complaint(tmp_path, claim)


def test_not_yaml(tmp_path):
    (tmp_path / "broken.yaml").write_text("claims: [")
    with pytest.raises(BadInput, match=r"broken\.yaml is not YAML"):
        load_claims(tmp_path)


def test_ids_are_unique_over_files(tmp_path):
    written(tmp_path, changed(), name="a.yaml")
    written(tmp_path, changed(), name="b.yaml")
    with pytest.raises(BadInput, match="'tandem-lola', which is taken"):
        load_claims(tmp_path)


def test_anchors_are_shared_between_claims(tmp_path):
    (tmp_path / "paper.yaml").write_text(
        "paper: p\nanchors:\n  - &q {metric: return, tolerance: 1, why: reason}\nclaims:\n"
        "  - {id: a, statement: s, source: s, protocol: &p {game: ipd, learners: [naive], steps: 1, seeds: 2},"
        " quantities: [{<<: *q, published: -2}]}\n"
        "  - {id: b, statement: s, source: s, protocol: {<<: *p, game: imp}, quantities: [{<<: *q, published: 0}]}\n"
    )
    known = load_claims(tmp_path)
    assert known["b"].protocol.game == "imp"
    assert known["b"].protocol.learners == ["naive"]
    assert [c.quantities[0].published for c in known.values()] == [-2, 0]


def test_claims_are_chosen_by_name_by_pattern_and_by_paper():
    everything = list(load_claims())
    assert select() == everything
    assert select(["lola-table3-ipd-lola", "lola-table3-ipd-lola"]) == ["lola-table3-ipd-lola"]
    sos = select(["sos-*"])
    assert sos == [name for name in everything if name.startswith("sos-")]
    loqa = select(of_papers=["loqa"])
    assert loqa == select(of_papers=["aghajohari2024loqa"])
    assert loqa
    # Several, mixed: their union, in the order of the files.
    union = {*sos, loqa[0], *select(of_papers=["tandem"])}
    assert select(["sos-*", loqa[0]], ["tandem"]) == [x for x in everything if x in union]
    lola = set(select(of_papers=["foerster2018lola"]))
    assert lola == set(select(of_papers=["lola*", "tournament"]))


@pytest.mark.parametrize(
    ("patterns", "of_papers", "nearest"),
    [
        (["nosuchclaim"], [], "claim is 'nosuchclaim'"),
        (["nothing-*"], [], "claim is 'nothing-*'"),
        ([], ["loqqa"], "did you mean 'loqa'?"),
        (["lola-table3-ipd-lol"], ["loqa"], "did you mean 'lola-table3-ipd-lola'?"),
    ],
)
def test_what_means_no_claim_is_refused_with_the_nearest_few(patterns, of_papers, nearest):
    with pytest.raises(BadInput) as error:
        select(patterns, of_papers)
    assert nearest in str(error.value)
    assert len(str(error.value)) < 400


def test_references_of_claims_are_in_the_bibliography():
    text = (configs_folder() / "references.bib").read_text()
    for path in sorted((configs_folder() / "claims").glob("*.yaml")):
        named = yaml.safe_load(path.read_text())["references"]
        assert named, path.name
        assert all(f"{{{key}," in text for key in named), path.name


# --- verify -------------------------------------------------------------------------------


def test_unknown_claim_before_anything_runs():
    with pytest.raises(BadInput, match="did you mean 'lola-table3-ipd-lola'"):
        verify(["lola-table3-ipd-lol"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol__game": "tandm"}, "'tandem'"),
        ({"protocol__learners": ["lola(lr=0.1,lookahed_lr=1)"]}, "'lookahead_lr'"),
        ({"quantities__0__metric": "parameter_sums"}, "'parameter_sum'"),
        ({"quantities__0__metric": "match_tft_0.05"}, "tandem"),  # known, but tandem has no memory-one policies
    ],
)
def test_unknown_names_in_a_claim(tmp_path, change, named):
    known = load_claims(written(tmp_path, changed(**change)))
    with pytest.raises(BadInput, match=named):
        verify(claims=known)


def test_a_claim_end_to_end(tmp_path):
    said: list[str] = []
    known = load_claims(written(tmp_path, changed()))
    (verdict,) = verify(["tandem-lola"], said.append, claims=known)
    assert verdict.verdict == "reproduced"
    assert verdict.ours == pytest.approx(1.25, abs=1e-12)
    assert verdict.difference == pytest.approx(verdict.ours - 1.25, abs=1e-15)
    assert (verdict.seeds, verdict.diverged) == (20, 0)
    assert verdict.tolerance == 1e-9
    assert verdict.seconds > 0
    assert said == ["claim 1 of 1: tandem-lola"]


def test_a_wrong_published_value_is_missed(tmp_path):
    known = load_claims(written(tmp_path, changed(quantities__0__published=1.0, quantities__0__note="left is right")))
    verdicts = verify(claims=known)
    assert [v.verdict for v in verdicts] == ["missed"]
    text = to_text(verdicts)
    assert "0 reproduced, 1 missed" in text
    assert "left is right" in text


def test_players_scale_and_points_in_time(tmp_path):
    """Against the game's own numbers: one naive step of the tandem game from (0, 0)."""
    quantities = [
        {"metric": "return", "player": player, "at": at, "scale": -1.0, "published": value}
        for player, at, value in [
            (1, 0, 0.0),
            (1, 1, 0.16 - 0.4),  # x = y = 0.2: (x + y)^2 - 2x
            ("mean", 1, -0.24),
            ("sum", 1, -0.48),
            (2, [0, 1], -0.12),
            ("both", 1, -0.24),
        ]
    ]
    claim = changed(
        protocol__game="tandem(init_std=0)",
        protocol__learners=["naive(lr=0.1)"],
        protocol__steps=1,
        protocol__record_every=1,
        quantities=[{**q, "tolerance": 1e-12, "why": "by hand"} for q in quantities],
    )
    assert {v.verdict for v in verify(claims=load_claims(written(tmp_path, claim)))} == {"reproduced"}


def test_grid_counts_and_uniform_starts(tmp_path):
    flag = {"metric": "preferred_basin", "player": 1, "aggregate": "count", "tolerance": 0, "why": "by hand"}
    grid = changed(
        id="grid",
        protocol={
            "game": "logistic",
            "learners": ["naive"],
            "steps": 0,
            "init": {"grid": {"low": -1, "high": 1, "num": 5}},
        },
        quantities=[{**flag, "published": 4}],  # {0.5, 1}^2 of {-1, -0.5, 0, 0.5, 1}^2
    )
    uniform = changed(
        id="uniform",
        protocol={
            "game": "logistic",
            "learners": ["naive"],
            "steps": 0,
            "seeds": 4000,
            "init": {"uniform": {"low": -1, "high": 1}},
        },
        quantities=[{**flag, "aggregate": "fraction", "published": 0.25, "tolerance": None, "standard_error": 0}],
    )
    first, second = verify(claims=load_claims(written(tmp_path, grid, uniform)))
    assert (first.ours, first.seeds, first.standard_error, first.verdict) == (4, 25, 0, "reproduced")
    assert second.verdict == "reproduced"
    assert second.standard_error == pytest.approx(math.sqrt(0.25 * 0.75 / 4000), rel=0.05)


def test_published_baselines_of_the_ipd():
    """Naive learners at the paper's protocol: defection, and the rare cooperative run."""
    verdicts = verify(["lola-table3-ipd-naive"])
    assert {v.verdict for v in verdicts} == {"reproduced"}
    assert verdicts[0].ours == pytest.approx(-1.99, abs=0.02)


def test_json_has_every_field_and_no_nan(tmp_path):
    diverging = changed(protocol__learners=["lola(lr=100,lookahead_lr=1)"])
    verdicts = verify(claims=load_claims(written(tmp_path, diverging)))
    out = json.loads(json.dumps(to_json(verdicts), allow_nan=False))
    (row,) = out["verdicts"]
    assert (row["ours"], row["diverged"], row["verdict"]) == (None, 20, "missed")
    assert {"claim", "quantity", "published", "ours", "std", "standard_error", "tolerance", "why", "seconds"} <= set(
        row
    )
    assert (out["reproduced"], out["missed"]) == (0, 1)
    assert out["seconds"] == pytest.approx(row["seconds"])


# --- tolerances ---------------------------------------------------------------------------


def quantity(**given: object) -> Quantity:
    return Quantity.model_validate({"metric": "return", "published": 0.0, "why": "test", **given})


def test_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    e = claims._estimate(quantity(runs=50), values, np.arange(len(values)))
    assert e.value == values.mean()
    assert e.std == pytest.approx(2.0, rel=0.05)
    assert e.standard_error == pytest.approx(2.0 / math.sqrt(4000), rel=0.05)
    assert e.published_error == pytest.approx(2.0 / math.sqrt(50), rel=0.05)


def test_standard_deviation_is_of_blocks():
    values = np.random.default_rng(0).normal(0.0, 1.0, 5000)
    e = claims._estimate(quantity(aggregate="std", runs=50), values, np.arange(len(values)))
    assert e.value == pytest.approx(1.0, abs=0.02)
    # The standard deviation of 50 normal numbers has a standard error of about 1 / sqrt(2 * 49).
    assert e.published_error == pytest.approx(1 / math.sqrt(98), rel=0.2)


def test_shares_of_nothing_are_not_certain():
    e = claims._estimate(quantity(aggregate="fraction", runs=100), np.zeros(400), np.arange(400))
    assert e.value == 0.0
    assert e.standard_error > 0.0


def test_diverged_seeds_are_left_out_of_means_and_not_counted():
    values = np.array([1.0, np.nan, 1.0, 0.0])
    assert claims._estimate(quantity(runs=5), values, np.arange(len(values))).value == pytest.approx(2 / 3)
    assert claims._estimate(quantity(aggregate="count", runs=5), values, np.arange(len(values))).value == 2


def test_tolerance_adds_rounding_and_three_standard_errors():
    claim = Claim.model_validate(TANDEM_LOLA)
    values = np.array([-1.0, 1.0] * 50)
    ours = values.std(ddof=1) / 10
    v = claims._judge(
        claims._resolve(claim),
        quantity(rounding=0.005, standard_error=0.04),
        values,
        np.arange(100),
        diverged=0,
        seconds=1.0,
    )
    assert v.tolerance == pytest.approx(0.005 + 3 * math.hypot(0.04, ours))
    outside = quantity(rounding=0.005, standard_error=0.04, published=v.tolerance * 1.01)
    assert (
        claims._judge(claims._resolve(claim), outside, values, np.arange(100), diverged=0, seconds=1.0).verdict
        == "missed"
    )


def shared(num_seeds: int, effects: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    units = np.arange(num_seeds) % len(effects)
    return effects[units] + np.random.default_rng(1).normal(0.0, noise, num_seeds), units


def test_seeds_that_share_preparations_are_no_independent_draws():
    """Twenty thousand seeds of three preparations know the mean over preparations no better than three do."""
    values, units = shared(20_001, np.array([0.0, 1.0, 5.0]), 0.1)
    for aggregate in ("mean", "median"):
        estimate = claims._estimate(quantity(aggregate=aggregate, standard_error=0.0), values, units)
        assert estimate.standard_error == pytest.approx(np.std([0.0, 1.0, 5.0], ddof=1) / math.sqrt(3), rel=0.01)
    mean = claims._estimate(quantity(standard_error=0.0), values, units)
    assert mean.value == values.mean()
    assert mean.standard_error == pytest.approx(stats.standard_error([values], stats.Units((units,), (0,), (3,))))
    # Where preparations do not matter nothing is lost but precision of the error.
    calm, units = shared(40_000, np.zeros(200), 1.0)
    assert claims._estimate(quantity(runs=5), calm, units).standard_error == pytest.approx(1 / 200, rel=0.2)


def test_shares_of_few_preparations_are_no_more_certain_than_of_their_seeds():
    units = np.arange(900) % 6
    split = np.where(units < 2, 0.0, 1.0)
    for aggregate, scale in (("fraction", 1), ("count", 900)):
        estimate = claims._estimate(quantity(aggregate=aggregate, standard_error=0.0), split, units)
        assert estimate.standard_error == pytest.approx(scale * split[:6].std(ddof=1) / math.sqrt(6))
        agreed = claims._estimate(quantity(aggregate=aggregate, standard_error=0.0), np.ones(900), units)
        alone = claims._estimate(quantity(aggregate=aggregate, standard_error=0.0), np.ones(900), np.arange(900))
        assert agreed.standard_error == alone.standard_error > 0
    one_left = np.where(units == 0, 1.0, np.nan)
    assert math.isnan(claims._estimate(quantity(standard_error=0.0), one_left, units).standard_error)


def test_what_is_reproduced_only_by_the_spread_of_preparations_says_so():
    entry = claims._resolve(Claim.model_validate(TANDEM_LOLA))
    values, units = shared(3000, np.array([0.0, 1.0, 5.0]), 0.1)
    near, far = quantity(published=2.01, standard_error=0.0), quantity(published=4.0, standard_error=0.0)
    plain = claims._judge(entry, near, values, units, diverged=0, seconds=1.0)
    wide = claims._judge(entry, far, values, units, diverged=0, seconds=1.0)
    assert (plain.verdict, plain.remark, plain.units) == ("reproduced", "", 3)
    assert wide.verdict == "reproduced"
    assert "only because 3 preparations differ: were the 3000 seeds" in wide.remark
    assert wide.remark in " ".join(to_text([wide]).split())
    alone = claims._judge(entry, far, values, np.arange(3000), diverged=0, seconds=1.0)
    assert (alone.verdict, alone.remark) == ("missed", "")


def test_verdicts_count_the_preparations_of_the_player_whose_number_it_is():
    def units(player: object, **protocol: object) -> list[int]:
        given = {"game": "ipd", "steps": 0, "seeds": 6, "preparations": 3, **protocol}
        quantities = [{"metric": "return", "player": player, "published": 0, "tolerance": 1, "why": "test"}]
        entry = claims._resolve(Claim.model_validate(changed(protocol=given, quantities=quantities)))
        return claims._units(entry, entry.claim.quantities[0]).tolist()

    jointly = {"learners": ["cola"]}
    assert units(2, **jointly) == units("mean", **jointly) == [0, 1, 2, 0, 1, 2]
    assert units(1, learners=["naive", "mfos"]) == units(2, learners=["naive", "mfos"]) == [1, 2, 0, 2, 0, 1]
    # A single preparation has no spread, and seeds of their own need none.
    assert units(1, preparations=1, **jointly) == list(range(6))
    assert units(1, preparations=6, **jointly) == list(range(6))
    assert units(1, learners=["naive"]) == list(range(6))


# --- the record ---------------------------------------------------------------------------


def test_a_record_keeps_verdicts_until_their_protocol_changes(tmp_path):
    other = changed(id="another", quantities__0__published=0.5, quantities__0__note="known")
    known = load_claims(written(tmp_path, changed(), other))
    path = tmp_path / "record" / "recorded.json"
    assert recorded(path, known) == []
    for name in known:  # one at a time: the second keeps the first
        found = verify([name], claims=known, record=path)
        assert recorded(path, known)[-1]["ours"] == found[0].ours
    rows = recorded(path, known)
    assert [(row["claim"], row["verdict"], row["note"]) for row in rows] == [
        ("tandem-lola", "reproduced", ""),
        ("another", "missed", "known"),
    ]
    assert record_about(path)["date"] == rows[0]["date"][:10]
    reworded = load_claims(written(tmp_path, changed(statement="Said better."), other))
    assert next(row["statement"] for row in recorded(path, reworded)) == "Said better."
    longer = load_claims(written(tmp_path, changed(protocol__steps=300), other))
    assert [row["claim"] for row in recorded(path, longer)] == ["another"]


def test_a_verdict_goes_with_the_defaults_that_it_was_of(tmp_path, monkeypatch):
    entry = changed(protocol__learners=["lola(lr=0.1)"], protocol__seeds=2, protocol__steps=2)
    known, path = load_claims(written(tmp_path, entry)), tmp_path / "recorded.json"
    verify(["tandem-lola"], claims=known, record=path)
    assert len(recorded(path, known)) == 1
    monkeypatch.setattr(LOLA, "published", {"tandem": {"lookahead_lr": 0.1}})
    assert recorded(path, known) == []


def test_what_is_no_record_is_refused_before_anything_runs(tmp_path):
    path = tmp_path / "recorded.json"
    path.write_text("[1, 2]")
    with pytest.raises(BadInput, match="record is"):
        verify(["tandem-lola"], claims=load_claims(written(tmp_path, changed())), record=path)


def test_the_record_of_the_repository_is_of_its_claims():
    for row in recorded():
        assert row["verdict"] in ("reproduced", "missed")
        assert row["commit"]
