"""Counterfactuals against closed forms, brute force, and the model itself."""

import math

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.counterfactuals import Goal, Pixels
from pellucid_server.engine.asking.question import Feature, Target
from pellucid_server.engine.asking.verbs import COUNTERFACTUAL
from pellucid_server.engine.models.files.manifest import ColumnManifest
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from server.engine.methods.networks_of_rows import Network, answered, linear, lines, table_row, tensor_row

AGE = ColumnManifest("age", 40.0, 10.0, 18.0, 90.0, unit="years")
INCOME = ColumnManifest("income", 2000.0, 500.0, 0.0, 9000.0)
JOB = ColumnManifest("job", categories=("none", "part", "full"))
GRADE = ColumnManifest("grade", categories=("a", "b", "c", "d"), encoding="ordinal")
COLUMNS = (AGE, INCOME, JOB, GRADE)
ROW = {"age": 33.0, "income": 1800.0, "job": "none", "grade": "b"}
WEIGHTS = np.array([0.5, 1.0, -0.5, 0.0, 0.5, 0.4])
SEARCHES = ("auto", "gradient", "spheres", "genetic")

every_search = pytest.mark.parametrize("search", SEARCHES)


def bent(inputs):
    """Neither monotone nor separable, with an interaction of a number and a category."""
    age, income, none, part, full, grade = inputs["x"].unbind(1)
    score = torch.tanh(age * 0.7) + income * (0.3 + full) - 0.5 * none + 0.2 * part + 0.25 * grade**2 - 1.6
    return torch.stack([torch.zeros_like(score), score], dim=1)


def first(found):
    return lines(found, "counterfactuals")[0]


def predicted(function, question, row):
    """What the model says of a row in the caller's terms, by the preprocessor that a caller's request goes through."""
    cells = question.cells["x"]
    values = [c.categories.index(row[c.name]) if c.categories else row[c.name] for c in cells.columns]
    rows = torch.from_numpy(cells.encode(np.array([values], np.float64))).double()
    return function({"x": rows})[0].numpy()


def test_l2_of_a_linear_model_is_the_orthogonal_projection():
    source = np.random.default_rng(1)
    for _ in range(5):
        weights, x = source.normal(size=20), source.normal(size=20).astype(np.float32)
        score = float(weights @ x)
        found = answered(Network(linear(weights, -score - 2.0)), tensor_row(x), distance="l2")

        expected = x + 2.0 * weights / (weights @ weights)
        np.testing.assert_allclose(found.arrays["counterfactual/0/x"].values, expected, rtol=0, atol=6e-3)
        assert first(found)["distance"] == pytest.approx(2.0 / np.linalg.norm(weights), rel=1e-3)


@pytest.mark.parametrize("distance", ["l1", "l0"])
def test_l1_of_a_linear_model_moves_the_element_with_the_largest_weight_alone(distance):
    weights = np.array([1.0, -3.0, 2.0, 0.0])
    found = answered(Network(linear(weights, -6.0)), tensor_row(np.zeros(4)), distance=distance)

    np.testing.assert_allclose(found.arrays["counterfactual/0/x"].values, [0, -2, 0, 0], atol=1e-3)
    assert first(found)["minimal"]


def test_a_box_of_tensors_is_kept():
    weights = np.array([1.0, -3.0, 2.0, 0.0])
    boxes = {"x": (np.array(-0.5), np.array(1.0))}
    found = answered(Network(linear(weights, -2.5)), tensor_row(np.zeros(4), boxes=boxes), distance="l1")

    np.testing.assert_allclose(found.arrays["counterfactual/0/x"].values, [0, -0.5, 0.5, 0], atol=1e-3)


def test_with_several_classes_the_nearest_boundary_counts_and_not_the_next_highest_class():
    def function(inputs):
        x = inputs["x"]
        return torch.stack([x[:, 0] * 0 + 3, 2 + 0.1 * x[:, 0], 1 + 10 * x[:, 1]], dim=1)

    found = answered(Network(function), tensor_row([0.0, 0.0], labels=("a", "b", "c")), distance="l2")

    np.testing.assert_allclose(found.arrays["counterfactual/0/x"].values, [0, 0.2], atol=1e-3)
    assert first(found)["prediction_after"] == "c"


@pytest.mark.parametrize("distance", ["l1", "l2", "l0"])
@every_search
def test_a_table_is_answered_by_a_real_row_that_the_model_says_what_is_wanted_of(search, distance):
    question = table_row(COLUMNS, ROW)
    found = answered(Network(bent), question, search=search, distance=distance)

    line, row = first(found), lines(found, "rows")[0]
    output = predicted(bent, question, row)
    assert line["found"]
    assert output.argmax() == 1
    assert line["score_after"] == pytest.approx(output[1], rel=1e-6)
    assert 18 <= row["age"] <= 90
    assert 0 <= row["income"] <= 9000
    changed = {change["column"] for change in lines(found, "changes")}
    assert changed == {name for name, value in ROW.items() if row[name] != value}
    assert line["changed"] == len(changed)


@every_search
def test_the_largest_scaled_weight_is_moved_alone_in_a_linear_table(search):
    columns = [ColumnManifest(name, 0.0, scale) for name, scale in (("p", 1.0), ("q", 2.0), ("r", 0.5))]
    background = [{"p": v, "q": 2 * v, "r": 0.5 * v} for v in np.linspace(-1, 1, 21).tolist()]
    question = table_row(columns, {"p": 0.0, "q": 0.0, "r": 0.0}, background=background)
    found = answered(Network(linear([1.0, 1.5, -1.2], -3.0)), question, search=search)

    assert {change["column"] for change in lines(found, "changes")} == {"q"}
    assert lines(found, "rows")[0]["q"] == pytest.approx(4.0, abs=0.03)
    assert "median absolute deviation" in found.tables["counterfactuals"].columns["distance"].text


def test_l2_of_a_linear_table_is_the_projection_in_units_of_spread():
    columns = [ColumnManifest(name, 0.0, scale) for name, scale in (("p", 1.0), ("q", 2.0))]
    found = answered(
        Network(linear([1.0, 1.0], -2.0)), table_row(columns, {"p": 0.0, "q": 0.0}), distance="l2", digits=5
    )

    row = lines(found, "rows")[0]
    assert (row["p"], row["q"]) == (pytest.approx(1.0, abs=2e-3), pytest.approx(2.0, abs=4e-3))


def test_rules_are_kept_over_500_random_cases():
    source = np.random.default_rng(2)
    for case in range(500):
        row = {
            "age": round(float(source.uniform(18, 90)), 1),
            "income": float(source.integers(0, 9000)),
            "job": str(source.choice(JOB.categories)),
            "grade": str(source.choice(GRADE.categories)),
        }
        fixed = [name for name in row if source.random() < 0.4]
        rules = {name: {"fixed": True} for name in fixed}
        if "age" not in fixed:
            rules["age"] = {"minimum": row["age"]}
        if "income" not in fixed:
            rules["income"] = {"whole": True, "maximum": max(row["income"], 5000.0)}
        if "job" not in fixed:
            rules["job"] = {"allowed": (1, 2)}
        weights, offset = source.normal(size=6), float(source.normal())
        function = linear(weights, offset)
        question = table_row(COLUMNS, row, rules=rules)
        own = int(predicted(function, question, row).argmax())
        question = table_row(COLUMNS, row, Goal(other_than=own), rules=rules)
        search = SEARCHES[case % len(SEARCHES)]

        found = answered(Network(function), question, search=search, evaluations=250)

        candidates = [line for line in lines(found, "counterfactuals") if line["distance"] is not None]
        for line, made in zip(candidates, lines(found, "rows"), strict=True):
            assert all(made[name] == row[name] for name in fixed), (case, made)
            assert made["age"] >= row["age"]
            assert made["income"] == row["income"] or made["income"] == round(made["income"]) <= 9000
            assert made["job"] in (row["job"], "part", "full")
            if line["found"]:
                assert predicted(function, question, made).argmax() != own, case


def test_no_single_change_can_be_taken_back_by_brute_force():
    source, checked = np.random.default_rng(3), 0
    for _ in range(30):
        weights, offset = source.normal(size=6), float(source.normal(-2.0))
        function, question = linear(weights, offset), table_row(COLUMNS, ROW)
        if predicted(function, question, ROW).argmax() == 1:
            continue
        found = answered(Network(function), question, distance="l2")
        if not first(found)["minimal"]:
            continue
        made, changes = lines(found, "rows")[0], lines(found, "changes")
        for change in changes:
            checked += 1
            back = {**made, change["column"]: ROW[change["column"]]}
            assert predicted(function, question, back).argmax() == 0
            if change["after_value"] is not None:
                place = 10.0 ** -(len(change["after"].partition(".")[2]))
                way = math.copysign(place, change["after_value"] - change["before_value"])
                step = {**made, change["column"]: made[change["column"]] - way}
                beyond = predicted(function, question, step)
                assert beyond[1] - beyond[0] < 2e-5 * abs(beyond).max()
    assert checked > 40


def test_whole_numbers_come_back_whole_and_others_with_few_digits():
    question = table_row(
        COLUMNS, ROW, rules={"income": {"whole": True}, "job": {"fixed": True}, "grade": {"fixed": True}}
    )
    found = answered(Network(bent), question, distance="l2", digits=2)

    row = lines(found, "rows")[0]
    assert row["income"] == round(row["income"])
    assert row["age"] == round(row["age"], 1)


def test_a_category_alone_is_found_where_it_suffices():
    function = linear([0, 0, 0, 0, 5, 0], -1.0)
    found = answered(Network(function), table_row(COLUMNS, ROW))

    assert [(c["column"], c["before"], c["after"]) for c in lines(found, "changes")] == [("job", "none", "full")]
    assert first(found)["distance"] == 1.0


def test_what_the_row_meets_already_is_answered_by_the_row_at_distance_zero():
    handle = Network(bent)
    found = answered(handle, table_row(COLUMNS, ROW, Goal(outcome=0)))

    line = first(found)
    assert (line["source"], line["distance"], line["changed"], line["found"]) == ("row", 0.0, 0, True)
    assert lines(found, "rows")[0] == {"row": 0, "number": 0, **ROW}
    assert "as it is" in found.warnings[0]
    assert sum(handle.sizes["scores"]) == 2


@every_search
def test_what_cannot_be_reached_is_not_found_within_the_budget_and_says_what_came_closest(search):
    def function(inputs):
        score = torch.tanh(inputs["x"].sum(dim=1)) - 2.0
        return torch.stack([torch.zeros_like(score), score], dim=1)

    handle = Network(function)
    found = answered(handle, table_row(COLUMNS, ROW), search=search, evaluations=3000)

    line = first(found)
    assert (line["found"], line["valid"], line["minimal"]) == (False, False, None)
    assert line["score_after"] > line["score_before"]
    assert "No counterfactual of row 0 was found" in found.warnings[0]
    assert not found.accuracy.partial
    assert sum(handle.rows) <= 3000 + 10


def test_a_tensor_that_cannot_be_reached_is_not_found():
    handle = Network(lambda inputs: torch.stack([inputs["x"].sum(1) * 0, inputs["x"].sum(1).tanh() - 2.0], dim=1))
    found = answered(handle, tensor_row([0.1, 0.2]), evaluations=500)

    assert not first(found)["found"]
    assert not found.arrays
    assert sum(handle.rows) <= 510


@every_search
def test_nan_and_infinity_on_the_way_are_never_valid(search):
    def function(inputs):
        age, income = inputs["x"][:, 0], inputs["x"][:, 1]
        score = torch.where(age > 1.0, math.nan, torch.where(income > 1.0, math.inf, age + income - 0.9))
        return torch.stack([torch.zeros_like(score), score], dim=1)

    found = answered(Network(function), table_row((AGE, INCOME), {"age": 33.0, "income": 1800.0}), search=search)

    line = first(found)
    assert line["found"]
    assert 0 <= line["score_after"] < math.inf


def test_bounds_of_the_score_are_met_from_either_side():
    for goal, offset in ((Goal(minimum=2.0, maximum=2.5), 0.0), (Goal(minimum=2.0, maximum=2.5), 4.0)):
        function = linear(WEIGHTS, offset)
        found = answered(Network(function), table_row(COLUMNS, ROW, goal))

        assert 2.0 <= first(found)["score_after"] <= 2.5


def test_bounds_are_read_in_the_targets_space():
    question = table_row(COLUMNS, ROW, Goal(minimum=0.8), target=Target("y", ((1, 1.0),), "softmax"))
    found = answered(Network(linear(WEIGHTS, -1.0)), question)

    assert 0.8 <= first(found)["score_after"] < 0.82


@every_search
def test_one_column_is_moved_to_where_the_model_turns(search):
    found = answered(Network(linear([1.0], -1.0)), table_row((AGE,), {"age": 40.0}), search=search)

    assert lines(found, "rows")[0]["age"] == pytest.approx(50.0, abs=0.11)


def test_ties_go_to_one_of_the_columns_and_not_to_both():
    columns = [ColumnManifest(name, 0.0, 1.0, -9.0, 9.0) for name in "pq"]
    found = answered(Network(linear([1.0, 1.0], -2.0)), table_row(columns, {"p": 0.0, "q": 0.0}))

    assert first(found)["changed"] == 1


def test_where_two_classes_are_equal_the_row_is_not_taken_for_valid():
    found = answered(Network(linear([1.0], 0.0)), table_row((AGE,), {"age": 40.0}))

    assert first(found)["distance"] > 0
    assert first(found)["score_after"] > 0


def test_several_are_near_and_differ():
    question = table_row(COLUMNS, ROW)
    found = answered(Network(bent), question, k=4)

    made = lines(found, "rows")
    sets = [frozenset(name for name in ROW if row[name] != ROW[name]) for row in made]
    assert len(made) == 4
    assert len(set(sets)) >= 3
    assert all(predicted(bent, question, row).argmax() == 1 for row in made)
    distances = [line["distance"] for line in lines(found, "counterfactuals")]
    assert distances == sorted(distances)


@every_search
def test_the_same_seed_gives_the_same_answer_and_other_seeds_are_valid_too(search):
    question = table_row(COLUMNS, ROW, seed=5)
    one, two = (answered(Network(bent), question, search=search, k=2) for _ in range(2))
    other = answered(Network(bent), table_row(COLUMNS, ROW, seed=6), search=search)

    assert lines(one, "rows") == lines(two, "rows")
    assert first(other)["found"]


def test_every_column_fixed_is_not_found_and_ends_at_once():
    handle = Network(bent)
    found = answered(handle, table_row(COLUMNS, ROW, rules={name: {"fixed": True} for name in ROW}))

    (line,) = lines(found, "counterfactuals")
    assert (line["found"], line["reason"], line["distance"], line["margin"]) == (False, "impossible", None, None)
    assert "the rules allow no row" in found.warnings[0]
    assert sum(handle.rows) < 5


def test_the_deadline_ends_the_search_and_the_answer_is_marked_as_partial():
    handle = Network(bent, seconds=1.0, forward_seconds=0.001, row_seconds=0.002)
    found = answered(handle, table_row(COLUMNS, ROW), distance="l2")

    assert found.accuracy.partial
    assert handle.seconds_left() > 0
    assert any("deadline" in warning for warning in found.warnings)


def test_candidates_are_asked_for_together():
    handle = Network(bent)
    answered(handle, table_row(COLUMNS, ROW))

    assert len(handle.sizes["scores"]) < 0.1 * sum(handle.sizes["scores"])


def test_several_rows_are_answered_by_a_part_each():
    method = registry.lookup("counterfactual", COUNTERFACTUAL)
    questions = tuple(table_row(COLUMNS, {**ROW, "age": 30.0 + number}, number=number) for number in range(3))
    handle, shares, parts = Network(bent), [], []
    for part in method.function(handle, questions, method.resolve({})):
        parts.append(part)
        shares.append(handle.shares[-1])

    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert handle.shares == sorted(handle.shares)
    assert [lines(part, "counterfactuals")[0]["row"] for part in parts] == [0, 1, 2]


def test_without_gradients_tables_are_searched_and_what_is_none_is_refused():
    reason = "the model has only an ONNX file"
    handle = Network(bent)
    found = answered(handle, table_row(COLUMNS, ROW, gradients=reason))

    assert first(found)["found"]
    assert not handle.sizes["gradient"]
    with pytest.raises(UnsupportedError, match="only an ONNX file"):
        answered(Network(linear([1.0])), tensor_row([0.0], gradients=reason))
    with pytest.raises(UnsupportedError, match="only an ONNX file"):
        answered(handle, table_row(COLUMNS, ROW, gradients=reason), search="gradient")


def test_texts_are_refused():
    with pytest.raises(UnsupportedError, match="'x' is text"):
        answered(Network(linear([1.0])), tensor_row([0.0], features={"x": Feature("text", False)}))


def test_the_nearest_row_of_the_background_is_given_only_where_that_is_allowed():
    background = [
        {"age": 33.0, "income": 100.0 * n, "job": job, "grade": "b"} for n in range(90) for job in JOB.categories
    ]
    hidden = table_row(COLUMNS, ROW, background=background)
    with pytest.raises(UnsupportedError, match="may not be shown"):
        answered(Network(bent), hidden, nearest_row=True)

    shown = table_row(COLUMNS, ROW, background=background, disclosable=True)
    found = answered(Network(bent), shown, nearest_row=True)

    line, row = lines(found, "counterfactuals")[-1], lines(found, "rows")[-1]
    assert line["source"] == "background"
    assert {key: row[key] for key in ROW} in background
    assert predicted(bent, shown, row).argmax() == 1
    assert line["distance"] >= first(found)["distance"]


def test_several_counterfactuals_are_for_tables():
    with pytest.raises(InvalidRequestError, match="must be 1"):
        answered(Network(linear([1.0])), tensor_row([0.0]), k=2)


def picture_row(levels, **options):
    pixels = Pixels(np.full(3, 127.5), np.full(3, 127.5), 8)
    row = ((np.asarray(levels, np.float64) - 127.5) / 127.5).astype(np.float32)
    return tensor_row(row, features={"x": Feature("image", True)}, pixels={"x": pixels}, **options)


@pytest.mark.parametrize("distance", ["l1", "l2", "l0"])
def test_a_picture_comes_back_in_whole_levels_and_is_valid_in_those(distance):
    source = np.random.default_rng(4)
    levels = source.integers(0, 256, (3, 6, 6))
    weights = source.normal(size=levels.size)
    row = (levels.reshape(-1) - 127.5) / 127.5
    function = linear(weights, -float(weights @ row) - 3.0)
    found = answered(Network(function), picture_row(levels), distance=distance)

    change = found.arrays["change/0/x"].values
    made = found.arrays["counterfactual/0/x"].values
    after = levels + change
    np.testing.assert_array_equal(change, np.rint(change))
    assert ((after >= 0) & (after <= 255)).all()
    np.testing.assert_allclose(made, (after - 127.5) / 127.5, atol=1e-6)
    assert function({"x": torch.from_numpy(made)[None].double()})[0].argmax() == 1
    assert (found.pictures["counterfactual/0/x"].width, found.pictures["counterfactual/0/x"].height) == (8, 8)
    if distance == "l1":
        assert first(found)["changed"] <= 3
        assert first(found)["minimal"]
    if distance == "l2":
        assert first(found)["distance"] < 127.5 * 1.3 * 3.0 / np.linalg.norm(weights) + math.sqrt(levels.size) / 2


def test_why_nothing_was_found_is_said_and_by_how_much_it_is_missed():
    def never(inputs):
        score = torch.tanh(inputs["x"].sum(dim=1)) - 2.0
        return torch.stack([torch.zeros_like(score), score], dim=1)

    few = answered(Network(never), table_row(COLUMNS, ROW), evaluations=300)
    late = answered(Network(never, seconds=1.0, forward_seconds=0.001, row_seconds=0.002), table_row(COLUMNS, ROW))
    done = answered(Network(never), tensor_row([0.1, 0.2]))

    assert [first(found)["reason"] for found in (few, late, done)] == ["budget", "deadline", "ended"]
    assert first(few)["margin"] == pytest.approx(first(few)["score_after"], rel=1e-6)
    assert -2 < first(few)["margin"] <= -1
    assert "any other than element 0 as the highest" in few.warnings[0]
    assert "misses it by" in few.warnings[0]
    assert few.warnings[0] != late.warnings[0] != done.warnings[0]


def test_an_answer_has_no_reason_and_a_margin_of_at_least_nothing():
    line = first(answered(Network(linear(WEIGHTS, -2.0)), table_row(COLUMNS, ROW, Goal(minimum=1.0))))

    assert line["reason"] == ""
    assert line["margin"] == pytest.approx(line["score_after"] - 1.0, abs=1e-9)
    assert line["margin"] >= 0


@pytest.mark.parametrize("k", [1, 3, 12, 32])
def test_short_time_is_used_for_one_search_whatever_is_asked_for(k):
    class Slow(Network):
        def ask(self, ask, **options):
            self._seconds -= 0.002
            return super().ask(ask, **options)

    handle = Slow(bent, seconds=1.0)
    found = answered(handle, table_row(COLUMNS, ROW), k=k)

    assert first(found)["found"]
    assert handle.seconds_left() > 0
