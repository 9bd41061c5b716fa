"""Encounters: lanes, tiles, chunks, sweeps and precisions change nothing but speed."""

import threading

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.adjustments import Consensus
from shaping_bench.algorithms.core import costs
from shaping_bench.algorithms.fixed import BestResponse
from shaping_bench.algorithms.lola import LOLA, LookAhead
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.sos import SOS
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.differentiable import ScalarGame
from shaping_bench.games.fields import pytree_dataclass
from shaping_bench.run import encounter, lanes, programs
from shaping_bench.run.encounter import costs_per_update, recorded_updates, run_encounter
from shaping_bench.run.pace import Pace
from shaping_bench.spec.registry import make_learner
from shaping_bench.speed.operations import Compiled

IPD, TANDEM = make("ipd"), make("tandem")


def final(outcome):
    return np.concatenate([x[-1] for x in outcome.params], axis=-1)


def test_recorded_updates_begin_with_zero_and_end_with_the_last():
    assert recorded_updates(25, 10).tolist() == [0, 10, 20, 25]
    assert recorded_updates(20, 10).tolist() == [0, 10, 20]
    assert recorded_updates(5, None).tolist() == [0, 5]
    assert recorded_updates(0, 10).tolist() == [0]


def test_shapes_and_start():
    outcome = run_encounter(IPD, [LOLA(), Naive()], num_seeds=3, num_updates=25, record_every=10)
    assert [x.shape for x in outcome.params] == [(4, 3, 5)] * 2
    assert outcome.diverged.shape == (3,)
    start = np.concatenate([x[0] for x in outcome.params], axis=-1)
    assert len(np.unique(start)) == start.size  # every seed and seat draws its own
    many = run_encounter(IPD, [Naive(), Naive()], num_seeds=4000, num_updates=0)
    drawn = np.concatenate([x[0] for x in many.params])
    # 40 000 draws of N(0, 1): standard errors 0.005 and 0.0035; five of them allowed.
    assert abs(drawn.mean()) < 0.025
    assert abs(drawn.std() - 1) < 0.018


def test_a_seed_does_not_depend_on_how_many_there_are_nor_on_tiles(monkeypatch):
    few = run_encounter(IPD, [LOLA(), LOLA()], num_seeds=5, num_updates=20)
    many = run_encounter(IPD, [LOLA(), LOLA()], num_seeds=300, num_updates=20)
    np.testing.assert_array_equal(final(few), final(many)[:5])
    monkeypatch.setattr(lanes, "TILE", 32)
    tiled = run_encounter(IPD, [LOLA(), LOLA()], num_seeds=300, num_updates=20)
    np.testing.assert_array_equal(final(tiled), final(many))


def test_recording_and_chunks_do_not_change_the_result(monkeypatch):
    plain = run_encounter(IPD, [LOLA(), Naive()], num_seeds=4, num_updates=30)
    recorded = run_encounter(IPD, [LOLA(), Naive()], num_seeds=4, num_updates=30, record_every=1)
    monkeypatch.setattr(encounter, "RECORDS_PER_CALL", 7)
    monkeypatch.setattr(encounter, "Pace", lambda: Pace(first=1000))  # calls as long as records allow
    done = []
    chunked = run_encounter(
        IPD, [LOLA(), Naive()], num_seeds=4, num_updates=30, record_every=1, on_progress=done.append
    )
    np.testing.assert_array_equal(final(recorded), final(plain))
    for a, b in zip(chunked.params, recorded.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert done == [6, 13, 20, 27, 30]  # the first point of the first call is the start


def test_a_sweep_is_its_points_run_one_by_one():
    rates = np.array([0.1, 0.5, 1.0])
    swept = run_encounter(IPD, [LOLA(lr=rates), Naive()], num_seeds=3, num_updates=15, precision="float64")
    assert swept.params[0].shape == (2, 3, 3, 5)
    for k, lr in enumerate(rates):
        alone = run_encounter(IPD, [LOLA(lr=float(lr)), Naive()], num_seeds=3, num_updates=15, precision="float64")
        np.testing.assert_allclose(final(swept)[k], final(alone), rtol=1e-9, atol=1e-9)


def test_a_sweep_over_the_game_too():
    swept = run_encounter(make("ipd", gamma=np.array([0.5, 0.96])), [Naive(), Naive()], num_seeds=2, num_updates=5)
    alone = run_encounter(make("ipd", gamma=0.5), [Naive(), Naive()], num_seeds=2, num_updates=5)
    np.testing.assert_allclose(final(swept)[0], final(alone), rtol=1e-5, atol=1e-6)


def test_uneven_sweeps_are_refused():
    with pytest.raises(ValueError, match="common length"):
        run_encounter(IPD, [LOLA(lr=np.ones(2)), LOLA(lr=np.ones(3))], num_seeds=2, num_updates=1)


def test_encounters_that_differ_only_in_numbers_share_one_program():
    def run(game, lr):
        return run_encounter(game, [LookAhead(lr=lr), Naive(lr=lr)], num_seeds=6, num_updates=7)

    run(IPD, 1.0)
    before = len(programs._COMPILED)
    for game in (make("chicken"), make("imp"), make("ipd", gamma=0.5)):
        outcome = run(game, 0.3)
        assert outcome.compile_seconds == 0.0
    assert len(programs._COMPILED) == before


def test_both_precisions_start_from_the_same_points():
    outcomes = {
        p: run_encounter(IPD, [LOLA(), LOLA()], num_seeds=4, num_updates=3, precision=p) for p in ("float32", "float64")
    }
    single, double = outcomes["float32"], outcomes["float64"]
    assert single.params[0].dtype == np.float32
    assert double.params[0].dtype == np.float64
    np.testing.assert_array_equal(single.params[0][0], double.params[0][0].astype(np.float32))
    np.testing.assert_allclose(final(single), final(double), rtol=2e-3, atol=2e-3)


@pytree_dataclass
class Numberless(ScalarGame):
    """Nothing of it enters a program as data."""

    def payoff(self, x, y):
        return -((x - y / 3) ** 2), -((y - x / 3) ** 2)

    def best_response(self, params, player):
        (other,) = params[1 - player]
        return (other / 3,)


def test_a_program_without_numbers_is_another_in_another_precision():
    game, rules = Numberless(), [BestResponse(), BestResponse()]
    assert not jax.tree.leaves((game, rules))
    ends = [run_encounter(game, rules, num_seeds=2, num_updates=3, precision=p) for p in ("float32", "float64")]
    assert [x.params[0].dtype for x in ends] == [np.float32, np.float64]
    thirds = ends[1].params[0][-1] * 27  # three times a third of the other's, which was another's start
    np.testing.assert_allclose(thirds, ends[1].params[1][0], rtol=1e-15)


def test_given_starts_per_seed_and_for_all():
    rows = np.arange(6.0).reshape(3, 2)
    outcome = run_encounter(TANDEM, [Naive(), Naive()], num_seeds=3, num_updates=0, init=[rows[:, :1], rows[:, 1:]])
    np.testing.assert_array_equal(final(outcome), rows)
    outcome = run_encounter(
        TANDEM, [Naive(), Naive()], num_seeds=3, num_updates=0, init=[np.array([1.0]), np.array([2.0])]
    )
    np.testing.assert_array_equal(final(outcome), [[1.0, 2.0]] * 3)


def test_naive_learning_on_the_tandem_game_by_hand():
    # grad V1 = 2 - 2 (x + y): from (0, 0.5) one step of 0.1 adds 0.1 to both.
    start = [np.array([0.0]), np.array([0.5])]
    outcome = run_encounter(TANDEM, [Naive(lr=0.1)] * 2, num_seeds=1, num_updates=1, init=start, precision="float64")
    np.testing.assert_allclose(final(outcome)[0], [0.1, 0.6], rtol=1e-15)


def test_infos_are_recorded_beside_the_parameters():
    start = [np.array([1.0]), np.array([0.25])]
    outcome = run_encounter(
        TANDEM,
        [SOS(lr=0.1, lookahead_lr=0.1)] * 2,
        num_seeds=1,
        num_updates=10,
        record_every=1,
        init=start,
        precision="float64",
    )
    p = outcome.infos[0]["sos_p"][:, 0]
    assert np.isnan(p[0])  # no update before the start
    assert p[1] == pytest.approx(0.4, abs=1e-12)  # SOS sheet: p = 0.4 at (1, 0.25)
    np.testing.assert_allclose(final(outcome)[0], [0.8968626535957475, 0.1468626535957477], rtol=1e-12)


def test_a_diverged_seed_is_named_and_the_others_are_not_touched():
    # Consensus on Balduzzi's cycle explodes from anywhere but its fixed point.
    starts = [np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])]
    outcome = run_encounter(make("balduzzi"), [Consensus()] * 2, num_seeds=2, num_updates=100, init=starts)
    assert outcome.diverged.tolist() == [False, True]
    np.testing.assert_array_equal(final(outcome)[0], [0.0, 0.0])


def test_costs_price_a_rule():
    assert [x.evaluations for x in costs_per_update(IPD, [Naive(), LOLA()])] == [1, 3]
    lookahead, sos = costs_per_update(IPD, [LookAhead(), SOS()])
    assert 1 < lookahead.evaluations < sos.evaluations


def test_what_differs_in_numbers_only_is_priced_once(monkeypatch):
    encounter._costs.cache_clear()
    traced = []
    one_update = encounter._one_update
    monkeypatch.setattr(encounter, "_one_update", lambda *arguments: traced.append(1) or one_update(*arguments))
    prices = [costs_per_update(make("ipd"), [LOLA(lr=lr), Naive()]) for lr in (0.123, 0.124)]
    assert prices[0] == prices[1]
    assert len(traced) == 2  # one per seat
    assert costs_per_update(make("ipd"), [Naive(), LOLA(lr=0.123)]) == prices[0][::-1]


def test_pricing_a_rule_does_not_count_what_other_threads_trace():
    encounter._costs.cache_clear()  # or nothing might be left to trace
    with costs.counting() as count:
        other = threading.Thread(target=costs_per_update, args=(IPD, [SOS(), SOS()]))
        other.start()
        other.join()
    assert count.evaluations == 0


def test_seeds_are_spread_over_all_devices():
    outcome = run_encounter(IPD, [Naive(), Naive()], num_seeds=600, num_updates=2)
    spread = lanes.Lanes(600)
    assert spread.mesh.size == len(jax.local_devices())
    assert final(outcome).shape == (600, 10)


@pytest.mark.parametrize(
    ("count", "width", "tile", "sizes"),
    [
        (5, 64, 3, {1: 2, 2: 2}),  # two tiles
        (4, 512, 1, {1: 4, 2: 4}),  # a lane fills a tile
        (3, 512, 1, {1: 3, 2: 3}),  # a fourth for a second device's sake would be a third more work
        (1, 64, 1, {1: 1, 2: 1}),
    ],
)
def test_how_many_lanes_share_a_product_does_not_depend_on_devices(monkeypatch, count, width, tile, sizes):
    found = jax.local_devices()
    for number, tiles in sizes.items():
        monkeypatch.setattr(lanes.jax, "local_devices", lambda number=number: found[:number])
        laid = lanes.Lanes(count, width)
        assert (laid.tile, laid.tiles) == (tile, tiles)
        np.testing.assert_array_equal(laid.join(laid.split(np.arange(count))), np.arange(count))


def test_few_seeds_stay_on_one_device():
    assert lanes.Lanes(64).mesh.size == 1


def test_old_programs_make_room_for_new_ones(monkeypatch):
    monkeypatch.setattr(programs, "MOST_COMPILED", 1)
    game = make("tandem")

    def run(rule):
        return run_encounter(game, [rule, rule], num_seeds=1, num_updates=1)

    first, _, again = (run(rule) for rule in (Naive(), LOLA(), Naive()))
    assert len(programs._COMPILED) == 1  # the last
    assert again.compile_seconds > 0
    np.testing.assert_array_equal(again.params[0], first.params[0])


def test_seats_apart_learn_the_same_each_on_a_device_of_its_own():
    game = make("ipd", horizon=8)
    rules = [make_learner("naive-pg(batch_size=64,network=mlp,hidden=8)", game="ipd").value] * 2
    found, operations = {}, {}
    for apart in (False, True):
        found[apart] = run_encounter(game, rules, num_seeds=2, num_updates=3, episodes=4, seats_apart=apart)
        operations[apart] = Compiled.read(programs.kept()[-1].function.as_text()).operations()
    together, apart = found[False], found[True]
    for x, y in zip(jax.tree.leaves(together.final), jax.tree.leaves(apart.final), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    assert [set(x) for x in apart.infos] == [set(x) for x in together.infos]
    # No seat's learning twice, and no play.
    assert operations[True].products < 1.2 * operations[False].products


def test_seats_apart_need_a_device_each():
    with pytest.raises(BadInput, match="a device for each of 3 seats, and there are 2"):
        run_encounter(make("public-goods"), [Naive()] * 3, num_seeds=1, num_updates=1, seats_apart=True)
