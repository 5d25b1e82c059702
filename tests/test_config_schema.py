"""Each setting is written once: the README's tables say what the schema says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import Struct  # noqa: TC002 - in an annotation of a module

from orchestra.config.plan import Plan, ProcessPlan, ProxyPlan
from orchestra.config.schema import (
    CONSTANTS,
    DashboardSettings,
    ProcessPolicy,
    ProcessSettings,
    ProxyPolicy,
    ProxySettings,
    ReloadSettings,
    RunPolicy,
    RunSettings,
    documented,
)

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
TABLES: dict[str, type[Struct]] = {
    "[run]": RunSettings,
    "[proxy]": ProxySettings,
    "[reload]": ReloadSettings,
    "[dashboard]": DashboardSettings,
    "[process.NAME]": ProcessSettings,
}


def rows(header: str) -> dict[str, str]:
    """The defaults of a table of the README, by name; each row says what its settings mean."""
    found: dict[str, str] = {}
    lines = iter(README.split("\n"))
    assert any(line.startswith(f"| `{header}` | default") for line in lines), f"no table {header}"
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            break
        names, defaults, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4])
        assert meaning, f"{names} is not documented"
        keys, values = re.findall(r"`(\w+)`", names), re.split(r"(?<=`), (?=`)", defaults)
        values = values * len(keys) if len(values) == 1 else values
        found.update(zip(keys, (value.strip("`") for value in values), strict=True))
    return found


@pytest.mark.parametrize("header", TABLES)
def test_the_readme_has_each_setting_with_its_default(header: str) -> None:
    schema = {name: each.default.replace(",", ", ") for name, each in documented(TABLES[header]).items()}
    assert rows(header) == schema


@pytest.mark.parametrize("table", TABLES.values())
def test_each_setting_is_documented_in_one_line(table: type[Struct]) -> None:
    for name, each in documented(table).items():
        assert each.text, f"{name} has no documentation"
        assert "\n" not in each.text


@pytest.mark.parametrize(
    ("plan", "policy"), [(Plan, RunPolicy), (ProxyPlan, ProxyPolicy), (ProcessPlan, ProcessPolicy)]
)
def test_a_plan_in_code_has_the_defaults_of_the_settings(plan: type[Struct], policy: type[Struct]) -> None:
    assert issubclass(plan, policy)
    assert plan.__struct_fields__[: len(policy.__struct_fields__)] == policy.__struct_fields__
    of_plan = dict(zip(reversed(plan.__struct_fields__), reversed(plan.__struct_defaults__), strict=False))
    of_policy = dict(zip(policy.__struct_fields__, policy.__struct_defaults__, strict=True))
    assert {name: of_plan[name] for name in of_policy} == of_policy


def test_what_is_a_constant_is_not_a_setting() -> None:
    assert not CONSTANTS.keys() & documented(ProxySettings).keys()
