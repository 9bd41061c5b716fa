"""JSON: all that a table holds, with every digit."""

import dataclasses
import json
from collections.abc import Sequence

from shaping_bench.publish.model import Table


def write(tables: Sequence[Table]) -> str:
    out = []
    for table in tables:
        content = dataclasses.asdict(table)
        del content["decimals"]
        out.append(content)
    return json.dumps(out, indent=1, ensure_ascii=False, allow_nan=False)
