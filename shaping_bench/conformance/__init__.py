"""What the harness relies on, checked on anybody's class: ``shaping-bench check``. Start in ``kit.py``."""
