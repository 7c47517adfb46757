"""The Boutiques descriptor says what the parser says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from app_runs import ROOT

from hpc.make_boutiques import TARGET, as_text, described, make_descriptor
from sicnn_app.cli.arguments import build_parser

DESCRIPTOR = json.loads(TARGET.read_text(encoding="utf-8"))
INPUTS = {entry["id"]: entry for entry in DESCRIPTOR["inputs"]}
VALUES = {"File": "README.md", "String": "0.03", "Number": 2}
"""That any input of a kind takes, where it has no choices: labels and thresholds are strings."""


def command(values: dict[str, Any]) -> list[str]:
    """The command line that Boutiques makes of values, by the rules of its schema."""
    words: list[str] = []
    for key in DESCRIPTOR["command-line"].split()[1:]:
        (entry,) = (entry for entry in DESCRIPTOR["inputs"] if entry["value-key"] == key)
        if entry["id"] not in values:
            assert entry["optional"]
            continue
        words += [entry["command-line-flag"]] if "command-line-flag" in entry else []
        value = values[entry["id"]]
        words += [] if entry["type"] == "Flag" else map(str, value if entry.get("list") else [value])
    return words


def sample(entry: dict[str, Any]) -> Any:
    """A value that an input takes by what the descriptor says."""
    if "value-choices" in entry:
        return entry["value-choices"][-1]
    value = VALUES.get(entry["type"])
    if re.search("label|session", entry["id"]):
        value = "01"
    return [value] if entry.get("list") else value


def test_the_file_is_what_the_generator_makes():
    assert TARGET.read_text(encoding="utf-8") == as_text(make_descriptor()), "python -m hpc.make_boutiques"


@pytest.mark.parametrize("action", described(build_parser()), ids=lambda action: action.dest)
def test_every_argument_of_the_parser_is_described(action):
    entry = INPUTS[action.dest]
    # The help states the default.
    assert entry["description"] == action.help
    assert entry["optional"] == (not action.required)
    assert entry.get("value-choices") == (list(action.choices) if action.choices else None)
    assert "default-value" not in entry
    if action.option_strings:
        assert entry["command-line-flag"] in action.option_strings


def test_nothing_is_described_that_the_parser_does_not_know():
    assert set(INPUTS) == {action.dest for action in described(build_parser())}
    grouped = [member for group in DESCRIPTOR["groups"] for member in group["members"]]
    assert sorted(grouped) == sorted(name for name, entry in INPUTS.items() if entry["optional"])


@pytest.mark.parametrize("name", INPUTS)
def test_the_parser_takes_the_command_of_every_input(name):
    values = {key: sample(entry) for key, entry in INPUTS.items() if not entry["optional"] or key == name}
    parsed = vars(build_parser().parse_args(command(values)))
    assert set(parsed) == set(values)
    expected = True if INPUTS[name]["type"] == "Flag" else values[name]
    assert parsed[name] == expected or str(parsed[name]) == expected


def test_the_parser_takes_the_command_of_all_inputs_together():
    values = {key: sample(entry) for key, entry in INPUTS.items()}
    assert set(vars(build_parser().parse_args(command(values)))) == set(values)


def test_every_exit_code_of_the_contract_is_described():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    codes = {entry["code"] for entry in DESCRIPTOR["error-codes"]}
    assert codes == {1, 16, 18, 64, 65, 66, 69, 70, 73, 75, 130}
    assert all(str(code) in page for code in codes)
