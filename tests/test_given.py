"""Plans that a person wrote: read with the line that is wrong, priced anew, held against the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgebert import cost
from edgebert.errors import UsageError
from edgebert.given import as_given, line_of, read_plan, require_given
from edgebert.plan import CompressionPlan
from tests.test_cli import edgebert
from tests.test_explaining import planned
from tests.test_plan import PLAN, SOURCE
from tests.test_search import LENGTH, profile

MISSPELT = '"ffn_precision": "int8",\n      "kept_heads": "2"'


@pytest.mark.parametrize(("old", "new", "said"), [
    ('"heads": 3', '"heads": 13', "13 heads x 5 neurons do not fit"),
    ('"heads": 1', '"heads": 2', "layer 2: kept_heads names 1 indices"),
    ('"kept_neurons": "0-8"', '"kept_neurons": "0-x"', "must be ranges"),
    ('"ffn": 9', '"ffn": "nine"', "ffn must be of type int"),
    ('"threads": 2', '"threads": 0', "threads must be at least 1"),
    ('"runtime": "onnx"', '"runtime": "coreml"', "'coreml' is not known"),
    ('"max_size_mb": 20.0', '"max_size_mb": -3', "max_size_mb must be a positive number"),
    (MISSPELT, MISSPELT.replace("precision", "precison"), "ffn_precision")])
def test_the_line_that_is_impossible_is_named(tmp_path, old: str, new: str, said: str) -> None:
    text = PLAN.dumps()
    assert text.count(old) == 1
    line = text[: text.index(old)].count("\n") + 1
    path = tmp_path / "plan.json"
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=said) as caught:
        read_plan(path)
    named = int(str(caught.value).split(", line ")[1].split(":")[0])
    lines = text.replace(old, new).splitlines()
    # A layer whose key is gone is named by the line it begins on; kept heads that do not fit the width by their own.
    named_whole = '"kept_heads"' in lines[named - 1] or (said == "ffn_precision" and '"layer": 2' in lines[named - 1])
    assert named == line or named_whole


def test_the_command_says_which_line_of_the_file(tmp_path) -> None:
    (tmp_path / "plan.json").write_text(PLAN.dumps().replace('"heads": 3', '"heads": 13'))
    done = edgebert("build", tmp_path / "plan.json", "--out", tmp_path / "b")
    line = PLAN.dumps()[: PLAN.dumps().index('"heads": 3')].count("\n") + 1
    assert done.returncode == 2 and f"plan.json, line {line}: layer 0: 13 heads" in " ".join(done.stderr.split())
    (tmp_path / "plan.json").write_text(PLAN.dumps())
    done = edgebert("build", tmp_path / "plan.json", "--out", tmp_path / "b", "--effort", "full")
    assert done.returncode == 2 and "take thorough" in " ".join(done.stderr.split())
    assert not (tmp_path / "b").exists()


def test_what_is_not_in_the_plan_has_no_line(tmp_path) -> None:
    assert line_of(PLAN.dumps(), "plan: not JSON") is None
    assert line_of(PLAN.dumps(), "plan: kept layer 7 does not exist") is None
    with pytest.raises(UsageError, match=r"none.json: cannot be read .* give a plan.json"):
        read_plan(tmp_path / "none.json")


def test_a_plan_as_it_was_searched_keeps_its_proof_and_an_edited_one_does_not() -> None:
    plan, given, device = planned(1)
    assert as_given(plan, given, device) == plan and plan.searched
    spec = plan.subnet.layers[0]
    wider = replace(plan, subnet=replace(plan.subnet, layers=(replace(spec, ffn=20), *plan.subnet.layers[1:])),
                    kept_neurons=(tuple(range(20)), *plan.kept_neurons[1:]))
    found = as_given(wider, given, device)
    assert not found.searched and found.subnet == wider.subnet
    assert found.estimate == cost.estimate(wider.shape, wider.precision, device, "onnx", 1, LENGTH, "p90")
    errors = given.layers[plan.subnet.kept[0]].ffn  # of 8 and 32 neurons: 20 is half way
    assert found.predicted_error - plan.predicted_error == pytest.approx((errors[8] + errors[32]) / 2 - errors[spec.ffn])
    again = CompressionPlan.loads(found.dumps())
    assert again == found and as_given(again, given, device) == found


def test_widths_outside_the_tables_follow_the_nearest_line() -> None:
    plan, given, device = planned(1)
    place = next(i for i, spec in enumerate(plan.subnet.layers) if spec.heads > 1 or i == len(plan.subnet.layers) - 1)
    index = plan.subnet.kept[place]
    layers = list(plan.subnet.layers)
    layers[place] = replace(layers[place], ffn=4)
    neurons = list(plan.kept_neurons)
    neurons[place] = (0, 1, 2, 3)
    found = as_given(replace(plan, subnet=replace(plan.subnet, layers=tuple(layers)), kept_neurons=tuple(neurons)), given,
                     device)
    errors = given.layers[index].ffn
    slope = (errors[32] - errors[8]) / 24
    expected = errors[8] - 4 * slope - errors[plan.subnet.layers[place].ffn]
    assert found.predicted_error - plan.predicted_error == pytest.approx(expected) and expected > 0


def test_a_plan_for_another_model_is_refused_by_what_differs() -> None:
    require_given(PLAN, SOURCE)
    for other, said in ((replace(SOURCE, vocab=59), "vocabulary of 60 pieces, the model has 59; trim it"),
                        (replace(SOURCE, labels=7), "for 3 labels .* has 7"),
                        (replace(SOURCE, layers=SOURCE.layers[:2]), "another model: its source has 3 layers")):
        with pytest.raises(UsageError, match=said):
            require_given(PLAN, other)
    assert profile().name != PLAN.profile
