"""Everything that can be run can be cited."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import bibtexparser
import pytest
import yaml

import shaping_bench
from shaping_bench.algorithms import ALGORITHMS
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.games import GAMES
from shaping_bench.publish import references
from shaping_bench.spec import registry
from shaping_bench.spec.configs import configs_folder
from tests.shaping_bench.synthetic_results import write_cell, write_suite

ROOT = Path(__file__).resolve().parents[2]
REGISTERED = {**{name: entry.source for name, entry in GAMES.items()}, **{x: c.source for x, c in ALGORITHMS.items()}}


@pytest.fixture(scope="module")
def entries():
    library = bibtexparser.parse_file(str(configs_folder() / "references.bib"))
    assert not library.failed_blocks
    return {entry.key: {field.key: field.value for field in entry.fields} for entry in library.entries}


@pytest.mark.parametrize("name", REGISTERED)
def test_every_method_and_game_has_a_paper_or_is_known_to_have_none(name):
    assert bool(references.keys(name)) != (name in references.UNPUBLISHED)


@pytest.mark.parametrize("name", REGISTERED)
def test_papers_that_a_source_names_by_number_are_cited(name, entries):
    cited = {entries[key].get("eprint") for key in references.keys(name)}
    assert set(re.findall(r"\b\d{4}\.\d{5}\b", REGISTERED[name])) <= cited


@pytest.mark.parametrize("name", REGISTERED)
def test_a_year_that_a_source_names_is_that_of_a_cited_paper(name, entries):
    """Sources say 'Foerster et al., AAMAS 2018': somebody of that name and year is cited."""
    cited = [
        (re.sub(r"\{\\.(\w)\}", r"\1", entries[key]["author"]), entries[key]["year"]) for key in references.keys(name)
    ]
    said = r"\b([A-Z][a-z]+)(?: et al\.| & [A-Z]\w+)?,? (?:[A-Z]\w+ )?((?:19|20)\d\d)\b"
    for author, year in re.findall(said, REGISTERED[name]):
        # "notebooks of November 2023" is no paper.
        assert author == "November" or any(author in x and year == y for x, y in cited), (author, year)


def test_keywords_name_only_what_exists():
    assert set(references._by_name()) == set(REGISTERED) - set(references.UNPUBLISHED) | {
        *references.TOPICS,
        references.BENCHMARK,
    }
    assert not set(GAMES) & set(ALGORITHMS)


def test_entries_are_complete(entries):
    for key, fields in entries.items():
        assert {"author", "title", "year"} <= set(fields), key
        assert re.fullmatch(r"(19|20)\d\d", fields["year"]), key
        assert {"journal", "booktitle", "publisher", "note"} & set(fields), key
        # What a reader of the list cannot find otherwise is said in the note that plain styles print.
        assert "arXiv" not in fields.get("note", "") or fields["note"] == f"arXiv:{fields['eprint']}", key
        assert all(c.isascii() for c in "".join(fields.values())), key


def test_bibtex_of_names_is_parsed_back_and_says_each_once():
    text = references.bibtex(["hola", "lola", "ipd"])
    library = bibtexparser.parse_string(text)
    assert [x.key for x in library.entries] == ["foerster2018lola", "willi2022cola", "axelrod1981evolution"]
    assert not library.failed_blocks
    assert "keywords" not in text
    assert library.entries[0]["title"] == "Learning with Opponent-Learning Awareness"
    assert references.bibtex([]) == ""


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="name is 'lolaa', which is unknown; did you mean 'lola'"):
        references.keys("lolaa")
    with pytest.raises(BadInput, match="or a results directory"):
        references.cite(["no/such/folder"])


def test_what_results_used_is_cited(tmp_path, capsys):
    write_suite(tmp_path, ["ipd"], ["mfos(against=lola)", "sos"])
    mfos = {"name": "mfos", "label": "mfos(against=lola)", "hyperparameters": {"against": "lola"}, "access": "rewards"}
    sos = {"name": "sos", "label": "sos", "hyperparameters": {"against": None}, "access": "gradients"}
    finals = {"return": [[-1.0, -1.0]]}
    write_cell(tmp_path, "ipd", ("mfos(against=lola)", "sos"), finals, learners=[mfos, sos])
    responder = {"learner": "ppo(batch_size=8)", "steps": 3}
    write_cell(tmp_path, "coin-game", ("sos", "sos"), finals, "league", learners=[sos, sos], responder=responder)
    assert main(["cite", str(tmp_path)]) == 0
    library = bibtexparser.parse_string(capsys.readouterr().out)
    assert {x.key for x in library.entries} == {
        "shaping_bench",
        "lu2022mfos",
        "foerster2018lola",
        "letcher2019stable",
        "axelrod1981evolution",
        "lerer2017coin",
        "schulman2017ppo",
        "agarwal2021precipice",
    }


def test_a_name_without_an_entry_is_not_forgotten(monkeypatch):
    class Mine(ALGORITHMS["naive"]):
        source = "a paper of\nmy own"

    monkeypatch.setattr(registry, "algorithms", lambda: {**ALGORITHMS, "mine": Mine})
    assert references.cite(["mine", "random"]).startswith("% mine: a paper of my own\n\n@misc{shaping_bench,")


def test_the_citation_file_names_this_release(entries):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    own = entries["shaping_bench"]
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == shaping_bench.__version__ == own["version"] == own["note"].split()[1]
    assert citation["title"].lower() == own["title"].replace("{", "").replace("}", "").lower()
    assert [x["name"] for x in citation["authors"]] == [own["author"].strip("{}")]
    titles = {fields["title"].replace("{", "").replace("}", "") for fields in entries.values()}
    assert {x["title"] for x in citation["references"]} <= titles


def test_the_wheel_carries_the_bibliography():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "shaping_bench"
    carried = {path for pattern in settings["package-data"]["shaping_bench"] for path in package.glob(pattern)}
    assert {path.name for path in carried if path.suffix == ".bib"} == {
        x.name for x in (ROOT / "configs").glob("*.bib")
    }
    assert any(path.suffix == ".bib" for path in carried)


@pytest.mark.skipif(not (shutil.which("pdflatex") and shutil.which("bibtex")), reason="no LaTeX here")
def test_the_whole_bibliography_compiles(tmp_path, entries):
    (tmp_path / "all.bib").write_text(references.bibtex([*REGISTERED, *references.TOPICS, references.BENCHMARK]))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\begin{document}\\nocite{*}\\bibliographystyle{plain}\\bibliography{all}\\end{document}"
    )

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
        return done.stdout

    latex = ("pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex")
    run(*latex)
    assert "Warning" not in run("bibtex", "paper")
    run(*latex)
    assert (tmp_path / "paper.bbl").read_text().count("\\bibitem") == len(entries)
