"""A run reads what it has stored once, whatever it makes of it."""

import collections

import yaml

from shaping_bench.cli import main
from shaping_bench.store import results

SUITE = {
    "name": "tiny",
    "games": ["ipd"],
    "learners": ["naive"],
    "opponents": ["all-d"],
    "seeds": 2,
    "steps": 2,
    "record_every": 1,
    "metrics": ["return"],
}


def test_a_run_reads_its_results_once(tmp_path, monkeypatch, capsys):
    """Cards, page, comparisons and the tables in four formats for W&B once read every cell for themselves."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SUITE))
    reads = collections.Counter()
    record = results._record
    monkeypatch.setattr(results, "_record", lambda path: reads.update([path.parent.name]) or record(path))
    assert main(["run", str(tmp_path / "tiny.yaml"), "-o", str(tmp_path / "out"), "--wandb", "offline"]) == 0
    assert "shaping-bench table" in capsys.readouterr().out
    assert set(reads.values()) == {1}
    assert len(reads) == 2
