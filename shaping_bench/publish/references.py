"""What to cite: BibTeX of the methods and games that results hold, and of the benchmark.

``configs/references.bib`` is the one place that says which paper stands behind which registered
name: each entry's ``keywords`` lists the algorithms and games, or topics, that it is for.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shaping_bench.errors import BadInput, unknown
from shaping_bench.spec.calls import parse_call
from shaping_bench.spec.configs import configs_folder
from shaping_bench.spec.coplayers import names_in
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

BENCHMARK = "shaping-bench"
"""The name that the benchmark itself is cited by."""
TOPICS = ("statistics", "metagame")
"""What is cited besides methods and games."""
UNPUBLISHED = ("best-response", "all-c", "all-d", "random", "matrix", "matrix-one-shot")
"""Registered names without a paper of their own: textbook play, and whatever payoffs the user gives."""

_FIELDS_OF_OURS = ("keywords",)


@functools.cache
def _entries() -> dict[str, Any]:
    """All entries of the bibliography by key, in the file's order.

    Raises:
      BadInput: the file does not parse, or holds a key twice.
    """
    import bibtexparser  # only who cites pays for it

    path = configs_folder() / "references.bib"
    library = bibtexparser.parse_file(str(path))
    if library.failed_blocks:
        block = library.failed_blocks[0]
        raise BadInput(
            f"{path.name} line {(block.start_line or 0) + 1} is no BibTeX entry with a key of its own: {block.raw}"
        )
    return {entry.key: entry for entry in library.entries}


@functools.cache
def _by_name() -> dict[str, tuple[str, ...]]:
    """Registered name or topic to the keys of what it is cited as."""
    keys: dict[str, list[str]] = {}
    for key, entry in _entries().items():
        for name in entry["keywords"].split(","):
            keys.setdefault(name.strip(), []).append(key)
    return {name: tuple(cited) for name, cited in keys.items()}


def names() -> tuple[str, ...]:
    """Everything that can be cited: registered algorithms and games, topics, and the benchmark."""
    from shaping_bench.spec import registry  # imports JAX

    return (*registry.algorithms(), *registry.games(), *TOPICS, BENCHMARK)


def keys(name: str) -> tuple[str, ...]:
    """BibTeX keys of a registered algorithm or game, of a topic, or of the benchmark.

    Empty for what has no paper: a package of one's own, and :data:`UNPUBLISHED`.

    Raises:
      BadInput: nothing of that name is registered.
    """
    if name not in _by_name() and name not in (known := names()):
        raise unknown("name", name, known)
    return _by_name().get(name, ())


def bibtex(of: Iterable[str]) -> str:
    """BibTeX entries of registered names, topics or the benchmark: each once, in the file's order.

    Raises:
      BadInput: nothing of that name is registered.
    """
    import bibtexparser

    wanted = {key for name in of for key in keys(name)}
    library = bibtexparser.Library()
    for key, entry in _entries().items():
        if key in wanted:
            fields = [field for field in entry.fields if field.key not in _FIELDS_OF_OURS]
            library.add(bibtexparser.model.Entry(entry.entry_type, key, fields))
    form = bibtexparser.BibtexFormat()
    form.indent, form.block_separator, form.trailing_comma = "  ", "\n", True
    return str(bibtexparser.write_string(library, bibtex_format=form)).strip()


def used(results: Results) -> tuple[str, ...]:
    """Names of all that a results directory used: games, learners, whom they were prepared
    against, who was trained as a best response, and the benchmark."""
    from shaping_bench.spec import registry

    names: dict[str, None] = {}
    for record in results.records:
        names[record["game"]["name"]] = None
        responder = record.get("responder")
        if responder:
            names[parse_call(responder["learner"], "responder")[0]] = None
        for learner in record["learners"]:
            names[learner["name"]] = None
            against = names_in(learner.get("hyperparameters", {}).get("against"))
            names |= dict.fromkeys(name for name in against if name in registry.algorithms())
    return (*names, "statistics", BENCHMARK)


def cite(what: Iterable[str]) -> str:
    """What ``shaping-bench cite`` prints, for names and results directories.

    A name that has no entry is named in a comment with its source, so that nobody is forgotten.

    Raises:
      BadInput: neither a name that can be cited nor a results directory.
    """
    of: dict[str, None] = {}
    for text in what:
        if text in names():
            of[text] = None
        elif Path(text).is_dir():
            of |= dict.fromkeys(used(results_.load(text)))
        else:
            hint = str(unknown("name", text, names()))
            raise BadInput(f"{hint}; or a results directory")
    of[BENCHMARK] = None
    comments = [f"% {name}: {source}" for name in of if (source := _without_entry(name))]
    return "\n".join([*comments, *([""] if comments else []), bibtex(of)])


def _without_entry(name: str) -> str:
    """What there is to say of a name without an entry; empty for one that has entries."""
    from shaping_bench.spec import registry

    if name in UNPUBLISHED or name in _by_name():
        return ""
    entries: dict[str, Any] = {**registry.games(), **registry.algorithms()}
    return " ".join(str(entries[name].source).split()) or "no paper is named"
