"""Files of ``configs/``: where they are, reading them, and saying in one line what is wrong with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from shaping_bench.errors import BadInput
from shaping_bench.store.store import LOADER


class Strict(pydantic.BaseModel):
    """What a file may say: these keys and no others."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def configs_folder() -> Path:
    """``configs/``, which is part of the package: a link in a checkout, a folder in a wheel."""
    return Path(__file__).resolve().parent.parent / "configs"


def read_yaml(path: Path, what: str) -> Any:
    """Content of a YAML file.

    Raises:
      BadInput: it cannot be read or is not YAML; names ``what``, the line and the column.
    """
    try:
        return yaml.load(path.read_text(), Loader=LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1}, column {where.column + 1})" if where else ""
        raise BadInput(f"{what} is not YAML{line}: {getattr(error, 'problem', None) or error}") from None
    except OSError as error:
        raise BadInput(f"{what} cannot be read ({error.strerror})") from None


def allowed(problem: Mapping[str, Any]) -> str:
    """What pydantic would have accepted, in words that follow ``allowed:``."""
    limits = problem.get("ctx") or {}
    if problem["type"] == "greater_than_equal":
        return f"a number of at least {limits['ge']}"
    if problem["type"] == "less_than":
        return f"a number below {limits['lt']}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"
