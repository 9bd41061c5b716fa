"""What new-thing must do."""

from new_thing import NewThing

from shaping_bench.algorithms.fixed import AllD
from shaping_bench.conformance.kit import check_learner
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter


def test_it_learns_to_defect_from_who_always_defects():
    rule = NewThing(lr=0.5, batch_size=64)
    outcome = run_encounter(make("ipd", horizon=8), [rule, AllD()], num_seeds=2, num_updates=60)
    first, last = outcome.params[0][0], outcome.params[0][-1]  # logits of cooperation in [start, CC, CD, DC, DD]
    assert (last[:, 0] < first[:, 0]).all()
    assert (last[:, 4] < first[:, 4]).all()


def test_it_is_a_good_citizen():
    assert [str(finding) for finding in check_learner(NewThing) if not finding.passed] == []
