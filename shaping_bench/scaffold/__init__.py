"""``shaping-bench new``: what it writes are the files of ``templates/`` by another name."""
