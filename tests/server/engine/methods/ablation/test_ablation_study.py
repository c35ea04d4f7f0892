"""Ablation studies: against loops over rows by hand, and intervals against exact distributions."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.handle import Answer
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.asking.registry import lookup
from pellucid_server.engine.asking.sites import Intervention, Site, SiteLayer
from pellucid_server.engine.asking.studies import Batch, Decision, StudyQuestion
from pellucid_server.engine.asking.verbs import STUDY
from pellucid_server.engine.methods.shared.studies import subsets
from pellucid_server.engine.methods.shared.studies.hits import estimates
from pellucid_server.engine.methods.shared.studies.misses import error_estimates
from pellucid_server.engine.methods.shared.studies.study_tables import unseen_share
from pellucid_server.errors import InvalidRequestError, TimedOutError, UnsupportedError
from scipy import stats
from server.engine.methods.closed_forms import grown
from server.engine.models.networks import eager, eager_values, eager_with, zoo_graph, zoo_module, zoo_rows

ROWS = 43
SEXES, PLACES = ("f", "m", ""), ("a", "b")


def batches_of(rows, labels, groups, most=10):
    def batches(size):
        for first in range(0, len(labels), min(size, most)):
            part = slice(first, first + min(size, most))
            yield Batch(
                {name: array[part] for name, array in rows.items()},
                labels[part],
                {name: tuple(values[part]) for name, values in groups.items()},
                np.arange(len(labels))[part],
            )

    return batches


@dataclasses.dataclass(frozen=True)
class Above(Decision):
    """Class 1 where the first number of the output is above a bound: small changes change some rows' class."""

    bound: float = 0.0

    def read(self, values):
        return (values[:, 0] > self.bound).astype(np.int64)


def question(name, interventions=(), *, seed=3, rows=ROWS, layers=(), **more):
    """A question about a network of the zoo, with labels of which about two thirds are what it predicts."""
    data = {key: value.numpy() for key, value in zoo_rows(name, rows, 5).items()}
    source = np.random.default_rng(seed)
    outputs = eager(zoo_module(name), zoo_rows(name, rows, 5))[0].detach().numpy()
    middle = np.sort(outputs[:, 0])[rows // 2 - 1 :][:2].mean()
    decided = Above("output", "highest", ("low", "high"), bound=float(middle))
    labels = np.where(source.random(rows) < 0.65, decided.read(outputs), source.integers(0, 2, rows))
    groups = {"sex": [SEXES[i] for i in source.integers(0, 3, rows)], "place": [PLACES[i % 2] for i in range(rows)]}
    graph = zoo_graph(name)
    return StudyQuestion(
        batches=batches_of(data, labels, groups),
        count=rows,
        decision=decided,
        layers={layer: SiteLayer(layer, graph.layers[layer].shape, graph.layers[layer].unit_axis) for layer in layers},
        interventions=tuple(interventions),
        references={"dataset": {key: value[:7] for key, value in data.items()}},
        seed=seed,
        **more,
    )


def joined(asked):
    parts = list(asked.batches(10**9))
    return Batch(
        {name: np.concatenate([part.rows[name] for part in parts]) for name in parts[0].rows},
        np.concatenate([part.labels for part in parts]),
        {name: sum((part.groups[name] for part in parts), ()) for name in parts[0].groups},
        np.concatenate([part.numbers for part in parts]),
    )


def study(handle, asked, **parameters):
    entry = lookup("ablation-study", STUDY)
    return list(entry.function(handle, asked, entry.resolve(parameters)))


def lines(parts, name="accuracy"):
    """The lines of a table that came in parts, as dicts by column."""
    found = []
    for part in parts:
        if name in part.tables:
            columns = part.tables[name].columns
            for place in range(len(columns["rows"].values)):
                found.append(
                    {
                        key: None if each.missing is not None and each.missing[place] else each.values[place]
                        for key, each in columns.items()
                    }
                )
    return found


def by_hand(right_before, right_after, batch, classes):
    """Accuracy before and after of every subset, by loops over rows."""
    wanted = {("all", ""): list(range(batch.count))}
    for row in range(batch.count):
        wanted.setdefault(("class", classes[int(batch.labels[row])]), []).append(row)
        for name, values in batch.groups.items():
            wanted.setdefault((name, values[row]), []).append(row)
    return {
        key: (
            len(rows),
            sum(float(right_before[row]) for row in rows) / len(rows),
            sum(float(right_after[row]) for row in rows) / len(rows),
        )
        for key, rows in wanted.items()
    }


def change_by_hand(kind, value, own, mean, mask):
    changed = {
        "zero": torch.zeros_like(own),
        "constant": torch.full_like(own, value),
        "scale": value * own,
        "mean": mean.expand_as(own),
    }[kind]
    return torch.where(mask, changed, own)


@pytest.mark.parametrize(
    ("kind", "value"), [("zero", 0.0), ("constant", 1.25), ("scale", -2.0), ("mean", 0.0)], ids=str
)
@pytest.mark.parametrize(("name", "layer"), [("convolutional", "relu"), ("residual", "blocks.0")])
def test_accuracy_is_that_of_a_loop_over_rows_with_the_change_made_by_hand(bench, name, layer, kind, value):
    site = Site(layer, (0, 2))
    asked = question(name, [Intervention((site,), kind, value, reference="dataset")], layers=[layer])
    batch = joined(asked)
    rows = {key: torch.from_numpy(array) for key, array in batch.rows.items()}
    own = eager_values(zoo_module(name), rows)[layer]
    reference = eager_values(zoo_module(name), {key: each[:7] for key, each in rows.items()})[layer]
    mask = torch.zeros_like(own, dtype=torch.bool)
    mask[:, [0, 2]] = True
    mean = reference.mean(dim=(0, 2, 3), keepdim=True)
    before = asked.decision.read(eager(zoo_module(name), rows)[0].detach().numpy()) == batch.labels
    changed = change_by_hand(kind, value, own, mean, mask)
    after = asked.decision.read(eager_with(zoo_module(name), rows, layer, changed)[0].detach().numpy()) == batch.labels
    assert (before != after).any()

    (parts,) = bench.run(lambda: study(bench.handle(name), asked, bootstrap=50))

    expected = by_hand(before, after, batch, asked.decision.classes)
    found = lines(parts)
    assert len(found) == 2 * len(expected)
    for line in found:
        count, first, second = expected[line["by"], line["group"]]
        assert line["rows"] == count
        if line["change"] == "none":
            assert line["accuracy"] == pytest.approx(first, abs=1e-12)
            assert line["difference"] is None
        else:
            assert line["accuracy"] == pytest.approx(second, abs=1e-12)
            assert line["difference"] == pytest.approx(second - first, abs=1e-12)
            assert line["difference low"] <= line["difference"] + 1e-12
            assert line["difference high"] >= line["difference"] - 1e-12


def test_joint_changes_at_two_layers_are_those_of_both_hooks(bench):
    name, first, second = "residual", "blocks.0", "blocks.0.conv"
    changes = [Intervention((Site(first, (1,)),), "zero"), Intervention((Site(second),), "scale", 0.25)]
    asked = question(name, changes, layers=[first, second])
    batch = joined(asked)
    rows = {key: torch.from_numpy(array) for key, array in batch.rows.items()}
    module = zoo_module(name)

    def without(_, __, value):
        copy = value.clone()
        copy[:, 1] = 0
        return copy

    hooks = [
        module.get_submodule(first).register_forward_hook(without),
        module.get_submodule(second).register_forward_hook(lambda _, __, value: 0.25 * value),
    ]
    after = asked.decision.read(eager(module, rows)[0].detach().numpy()) == batch.labels
    for hook in hooks:
        hook.remove()

    (parts,) = bench.run(lambda: study(bench.handle(name), asked, joint=True, bootstrap=0))

    total = next(line for line in lines(parts) if line["change"] == "all" and line["by"] == "all")
    assert total["accuracy"] == pytest.approx(after.mean(), abs=1e-12)
    assert {line["change"] for line in lines(parts)} == {"none", "all"}
    assert total["low"] is None


def test_a_change_that_changes_nothing_makes_no_difference_in_any_group(bench):
    asked = question("residual", [Intervention((Site("blocks.0"),), "scale", 1.0)], layers=["blocks.0"])

    (parts,) = bench.run(lambda: study(bench.handle("residual"), asked))

    after = [line for line in lines(parts) if line["change"] != "none"]
    assert after
    assert {line[key] for line in after for key in ("difference", "difference low", "difference high")} == {0.0}


@pytest.mark.parametrize("kind", ["resample", "noise"])
def test_random_changes_are_averaged_over_draws_seeded_and_independent_of_batches(bench, kind):
    change = Intervention((Site("blocks.0", (0,)),), kind, 2.0, reference="dataset", draws=3)
    asked = question("residual", [change], layers=["blocks.0"])
    batch = joined(asked)
    smaller = dataclasses.replace(asked, batches=batches_of(batch.rows, batch.labels, batch.groups, 4))
    other = dataclasses.replace(asked, seed=4)

    found = bench.run(
        *[lambda each=each: lines(study(bench.handle("residual"), each)) for each in (asked, asked, smaller, other)]
    )

    first, again, split, reseeded = found
    assert first == again == split
    assert first != reseeded
    total = next(line for line in first if line["change"] != "none" and line["by"] == "all")
    assert (total["accuracy"] * 3 * ROWS) == pytest.approx(round(total["accuracy"] * 3 * ROWS), abs=1e-9)


def test_values_of_other_rows_are_not_kept_without_bound_and_the_answer_is_the_same(bench, monkeypatch):
    change = Intervention((Site("blocks.0", (0,)),), "resample", reference="dataset", draws=3)
    asked = question("residual", [change], layers=["blocks.0"])
    (expected,) = bench.run(lambda: lines(study(bench.handle("residual"), asked)))
    monkeypatch.setattr("pellucid_server.engine.methods.shared.sites.interventions.MOST_KEPT_BYTES", 1500)

    (found,) = bench.run(lambda: lines(study(bench.handle("residual"), asked)))

    assert found == expected


# A model of a table by a formula: class 1 where the first column plus twice the second is above 0.


class Linear:
    """Answers forward passes of a linear model of rows `x`, (rows, 4), of which the last two are one column."""

    def __init__(self, weights, *, seconds=math.inf, row_seconds=0.0, fails_after=None):
        self.weights = np.array(weights)
        self.rows = 0
        self.seconds, self.row_seconds, self.fails_after = seconds, row_seconds, fails_after

    def ask(self, ask, *, progress=None):
        rows = grown(ask.rows)["x"].astype(np.float64)
        self.rows += len(rows)
        self.seconds -= self.row_seconds * len(rows)
        if self.fails_after is not None and self.rows > self.fails_after:
            raise TimedOutError("Late.", stage="running")
        return Answer({"y": (rows @ self.weights)[:, None]})

    def compute(self, function, *arguments):
        return function(*arguments)

    def seconds_left(self):
        return max(self.seconds, 0.0)


WEIGHTS = (1.0, 2.0, -1.5, 0.5)
COLUMNS = {"a": (0,), "b": (1,), "c": (2, 3)}


def table_question(changes=(), *, rows=500, number=False, seed=11, noise=0.5):
    source = np.random.default_rng(seed)
    x = source.normal(size=(rows, 4)).astype(np.float32)
    score = x.astype(np.float64) @ WEIGHTS
    labels = score + source.normal(size=rows) if number else (score + noise * source.normal(size=rows) > 0).astype(int)
    groups = {"side": ["left" if each < 0.3 else "right" for each in source.random(rows)]}
    sites = {name: Site("input:x", elements) for name, elements in COLUMNS.items()}
    return StudyQuestion(
        batches=batches_of({"x": x}, labels, groups, 64),
        count=rows,
        decision=Decision("y", "number", unit="mg") if number else Decision("y", "sign", ("no", "yes")),
        interventions=tuple(dataclasses.replace(each, sites=(sites[name],)) for name, each in changes),
        references={"dataset": {"x": x[::5]}},
        features={"x": Feature("tabular", True, groups=np.array([0, 1, 2, 2], np.int32), columns=("a", "b", "c"))},
        names={site: f"input:x[{name}]" for name, site in sites.items()},
        seed=seed,
    )


@pytest.mark.parametrize("kind", ["mean", "zero"])
def test_a_column_that_is_ablated_has_its_mean_or_zero_in_every_row(kind):
    asked = table_question([("c", Intervention((), kind, reference="dataset"))])
    batch = joined(asked)
    x = batch.rows["x"].astype(np.float64)
    x[:, 2:] = asked.references["dataset"]["x"].astype(np.float64)[:, 2:].mean(0) if kind == "mean" else 0
    after = (x.astype(np.float32).astype(np.float64) @ WEIGHTS > 0) == batch.labels

    found = lines(study(Linear(WEIGHTS), asked, bootstrap=0))

    total = next(line for line in found if line["change"] == f"input:x[c] {kind}" and line["by"] == "all")
    assert total["accuracy"] == pytest.approx(after.mean(), abs=1e-12)
    assert total["difference"] < 0


def test_a_column_that_is_resampled_is_right_as_often_as_over_all_reference_rows():
    draws = 64
    asked = table_question([("b", Intervention((), "resample", reference="dataset", draws=draws))])
    batch = joined(asked)
    x, reference = batch.rows["x"].astype(np.float64), asked.references["dataset"]["x"].astype(np.float64)
    rest = x @ (np.array(WEIGHTS) * [1, 0, 1, 1])
    chances = ((rest[:, None] + 2.0 * reference[None, :, 1] > 0) == batch.labels[:, None]).mean(1)

    found = lines(study(Linear(WEIGHTS), asked, bootstrap=0))

    total = next(line for line in found if line["change"] != "none" and line["by"] == "all")
    deviation = math.sqrt((chances * (1 - chances)).sum() / draws) / len(chances)
    assert abs(total["accuracy"] - chances.mean()) < 4 * deviation


def test_the_baselines_interval_is_the_binomial_distributions():
    for right, rows in ((37, 50), (1, 20), (480, 500)):
        counts = np.array([[rows - right], [right]])

        before, _, _ = estimates(counts, 5, "all/", resamples=10_000, level=0.95)

        exact = stats.binom(rows, right / rows)
        assert before.value == right / rows
        for end, share in ((before.low, 0.025), (before.high, 0.975)):
            # A quantile of 10,000 draws is off by so much in probability.
            width = 5 * math.sqrt(share * (1 - share) / 10_000)
            assert exact.ppf(share - width) <= round(end * rows, 6) <= exact.ppf(share + width)
    certain, _, _ = estimates(np.array([[0], [9]]), 5, "all/", resamples=1000, level=0.95)
    assert (certain.low, certain.high) == (1.0, 1.0)


def test_intervals_of_differences_are_paired_as_resampling_of_whole_rows_says():
    source = np.random.default_rng(8)
    before = source.random(200) < 0.8
    after = np.where(source.random(200) < 0.9, before, ~before).astype(np.int64)
    counts = np.zeros((2, 2), np.int64)
    np.add.at(counts, (before.astype(int), after), 1)

    _, _, difference = estimates(counts, 1, "x", resamples=10_000, level=0.95)

    drawn = source.integers(0, 200, (10_000, 200))
    by_rows = (after[drawn] - before[drawn].astype(int)).mean(1)
    low, high = np.quantile(by_rows, (0.025, 0.975))
    assert difference.low == pytest.approx(low, abs=0.006)
    assert difference.high == pytest.approx(high, abs=0.006)
    # Unpaired, it would be wider.
    unpaired = np.sqrt(before.var() / 200 + after.var() / 200)
    assert difference.high - difference.low < 2 * 1.96 * unpaired


def test_errors_of_numbers_are_those_of_a_loop_and_their_intervals_those_of_the_normal_distribution():
    asked = table_question([("a", Intervention((), "zero"))], number=True, rows=600)
    batch = joined(asked)
    x = batch.rows["x"].astype(np.float64)
    changed = x * [0, 1, 1, 1]

    found = lines(study(Linear(WEIGHTS), asked, bootstrap=4000), "errors")

    for side in ("left", "right"):
        rows = [row for row in range(batch.count) if batch.groups["side"][row] == side]
        before = [(x[row] @ WEIGHTS - batch.labels[row]) for row in rows]
        after = [(changed[row] @ WEIGHTS - batch.labels[row]) for row in rows]
        none, zero = (line for line in found if line["group"] == side)
        assert none["mean squared error"] == pytest.approx(np.mean(np.square(before)))
        assert zero["mean absolute error"] == pytest.approx(np.mean(np.abs(after)))
        assert zero["mean squared error difference"] == pytest.approx(
            np.mean(np.square(after)) - np.mean(np.square(before))
        )
        each = np.square(after) - np.square(before)
        half = 1.96 * each.std() / math.sqrt(len(rows))
        assert zero["mean squared error difference high"] - each.mean() == pytest.approx(half, rel=0.2)
        assert each.mean() - zero["mean squared error difference low"] == pytest.approx(half, rel=0.2)
    assert {line["by"] for line in found} == {"all", "side"}


def test_one_row_has_an_interval_of_no_width():
    assert error_estimates(np.array([[[4.0, 2.0]]]), 0, "x", 100, 0.95)[0, 0, 0].tolist() == [4.0, 4.0, 4.0]
    found = lines(study(Linear(WEIGHTS), table_question(rows=1)))
    assert {(line["rows"], line["low"], line["high"]) for line in found} <= {(1, 0.0, 0.0), (1, 1.0, 1.0)}


def test_running_estimates_come_on_the_way_and_end_where_the_result_is():
    parts = study(Linear(WEIGHTS), table_question([("a", Intervention((), "zero"))]))

    running = lines(parts, "running")
    rows = [line["rows"] for line in running if line["change"] == "none"]
    assert rows == sorted(set(rows))
    assert rows == [64, 128, 192, 256, 320, 384, 448]
    final = next(line for line in lines(parts) if line["change"] == "none" and line["by"] == "all")
    assert running[-2]["accuracy"] == pytest.approx(final["accuracy"], abs=0.1)
    assert parts[-1].accuracy.partial is False


@pytest.mark.parametrize("late", [{"seconds": 1.0, "row_seconds": 0.01}, {"fails_after": 200}], ids=str)
def test_a_deadline_leaves_the_accuracy_of_the_rows_so_far(late):
    asked = table_question()
    parts = study(Linear(WEIGHTS, **late), asked)

    total = next(line for line in lines(parts) if line["by"] == "all")
    batch = joined(asked)
    right = (batch.rows["x"].astype(np.float64) @ WEIGHTS > 0) == batch.labels
    assert 0 < total["rows"] < 500
    assert total["rows"] % 64 == 0
    assert total["accuracy"] == pytest.approx(right[: total["rows"]].mean(), abs=1e-12)
    assert parts[-1].accuracy.partial is True
    assert f"after {total['rows']} rows" in parts[-1].warnings[0]


def test_a_deadline_before_the_first_batch_is_an_error():
    with pytest.raises(TimedOutError):
        study(Linear(WEIGHTS, fails_after=10), table_question())


def test_no_more_rows_are_used_than_asked_for_and_none_is_an_error():
    found = lines(study(Linear(WEIGHTS), table_question(), rows=100))
    assert found[0]["rows"] == 100

    with pytest.raises(InvalidRequestError, match="no rows"):
        study(Linear(WEIGHTS), table_question(rows=0))


def test_a_group_column_of_numbers_is_refused(monkeypatch):
    monkeypatch.setattr(subsets, "MOST_VALUES", 1)

    with pytest.raises(UnsupportedError, match="'side' has more than 1 values"):
        study(Linear(WEIGHTS), table_question())


def test_a_large_table_of_results_comes_in_parts(monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.ablation.ablation_study._ROWS_OF_A_TABLE", 4)

    parts = study(Linear(WEIGHTS), table_question([("a", Intervention((), "zero"))]))

    sizes = [len(part.tables["accuracy"].columns["rows"].values) for part in parts if "accuracy" in part.tables]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(("kind", "limit"), [("sign", 0.0), ("half", 0.5)])
def test_one_number_per_row_is_read_as_two_classes(kind, limit):
    values = np.array([[limit], [limit + 1e-6], [limit - 1e-6]])

    assert Decision("y", kind, ("0", "1")).read(values).tolist() == [0, 1, 0]


TWO = [("a", Intervention((), "zero")), ("c", Intervention((), "resample", reference="dataset", draws=4))]


def resumed(first, done, handle=None, asked=None, **parameters):
    """The parts that the caller has in the end: `done` of the first worker, and what a second one goes on with."""
    asked = table_question(TWO) if asked is None else asked
    asked = dataclasses.replace(asked, parts_done=done, last=first[done - 1])
    return first[:done] + study(handle or Linear(WEIGHTS), asked, **parameters)


@pytest.mark.parametrize("most", [4, 5, 1000])
def test_after_a_lost_worker_the_caller_has_each_part_once_wherever_it_was_lost(monkeypatch, most):
    # A table of 15 lines: in parts of which the last is short or full, or in one.
    monkeypatch.setattr("pellucid_server.engine.methods.ablation.ablation_study._ROWS_OF_A_TABLE", most)
    first = study(Linear(WEIGHTS), table_question(TWO))
    wanted = [lines(first, name) for name in ("running", "accuracy")]
    assert [len(each) for each in wanted] == [21, 15]

    for done in range(1, len(first) + 1):
        parts = resumed(first, done)

        assert [lines(parts, name) for name in ("running", "accuracy")] == wanted, done
        assert len(parts) == len(first) + (done == len(first))
        assert parts[-1].accuracy.partial is False
    assert lookup("ablation-study", STUDY).skips_parts


def test_a_second_worker_with_less_time_still_gives_the_table_and_says_that_it_is_partial():
    first = study(Linear(WEIGHTS), table_question(TWO))

    for late in ({"seconds": 1.0, "row_seconds": 0.001}, {"fails_after": 650}):
        parts = resumed(first, 3, Linear(WEIGHTS, **late))

        (rows,) = {line["rows"] for line in lines(parts) if line["by"] == "all"}
        assert 0 < rows < 500
        assert parts[-1].accuracy.partial is True
        assert f"after {rows} rows" in parts[-1].warnings[0]


def test_tables_of_one_reading_are_never_mixed_with_those_of_another(monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.ablation.ablation_study._ROWS_OF_A_TABLE", 4)
    # The first worker read all rows and gave a part of the table; the second has no time for as many.
    whole = study(Linear(WEIGHTS), table_question(TWO))
    place = next(number for number, part in enumerate(whole, 1) if "accuracy" in part.tables)
    with pytest.raises(TimedOutError):
        resumed(whole, place, Linear(WEIGHTS, fails_after=650))

    # The first worker was cut off, and lost in the middle of its tables.
    short = study(Linear(WEIGHTS, fails_after=650), table_question(TWO))
    place = next(number for number, part in enumerate(short, 1) if "accuracy" in part.tables)
    parts = resumed(short, place)
    assert lines(parts) == lines(short[:place])
    assert parts[-1].accuracy.partial is True
    assert "may be missing" in parts[-1].warnings[0]

    # It was lost after all of them.
    parts = resumed(short, len(short))
    assert lines(parts) == lines(short)
    assert (parts[-1].accuracy.partial, parts[-1].warnings) == (True, ())


@pytest.mark.parametrize("number", [False, True], ids=["classes", "numbers"])
def test_more_than_can_be_counted_is_refused_before_a_row_is_evaluated(number, monkeypatch):
    handle, asked = Linear(WEIGHTS), table_question(TWO, number=number)
    # Of 64 subsets, counts for no change and for two with 1 and 4 draws; of 500 rows, two errors for each of the three.
    least = 500 * 2 * 3 if number else 64 * 2 * 8 * (1 + 2 + 5)
    where = "misses.MOST_NUMBERS" if number else "study_tables._MOST_COUNT_BYTES"
    monkeypatch.setattr(f"pellucid_server.engine.methods.shared.studies.{where}", least - 1)
    with pytest.raises(InvalidRequestError, match="fewer sites"):
        study(handle, asked)
    assert handle.rows == 0

    monkeypatch.setattr(f"pellucid_server.engine.methods.shared.studies.{where}", least)
    assert lines(study(handle, asked, bootstrap=0), "errors" if number else "accuracy")


def test_classes_and_groups_that_are_too_many_are_refused_before_their_rows_are_evaluated(monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.shared.studies.study_tables._MOST_COUNT_BYTES", 64 * 2 * 8 * 8)
    handle = Linear(WEIGHTS)
    with pytest.raises(InvalidRequestError, match="with 65 classes"):
        study(handle, dataclasses.replace(table_question(TWO), classes=64))
    assert handle.rows == 0

    asked = table_question(TWO)
    named = joined(asked)
    asked = dataclasses.replace(
        asked, batches=batches_of(named.rows, named.labels, {"number": [str(row % 100) for row in range(500)]}, 50)
    )
    with pytest.raises(InvalidRequestError, match="with 103 classes and groups"):
        study(handle, asked)
    assert handle.rows == 50 * 6

    asked = dataclasses.replace(asked, count=None, decision=Decision("y", "number"))
    monkeypatch.setattr("pellucid_server.engine.methods.shared.studies.misses.MOST_NUMBERS", 50 * 2 * 3)
    with pytest.raises(InvalidRequestError, match="so many rows"):
        study(handle, asked)
    assert handle.rows == 2 * 50 * 6


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("rows", [1, 2, 30, 1000, 10**9])
def test_the_share_of_what_was_not_seen_is_clopper_and_pearsons_bound(rows, level):
    (found,) = unseen_share(np.array([rows]), level)

    # The largest share of which none in so many rows is not yet too rare.
    assert found == pytest.approx(stats.beta.ppf(level, 1, rows), rel=1e-6)
    if level == 0.95 and rows >= 30:
        assert found == pytest.approx(3 / rows, rel=0.06)


def test_a_group_that_is_all_right_or_all_wrong_has_a_bound_in_place_of_certainty():
    asked = table_question([("a", Intervention((), "zero"))])
    batch = joined(asked)
    x = batch.rows["x"].astype(np.float64)
    right = (x @ WEIGHTS > 0) == batch.labels
    after = (x * [0, 1, 1, 1] @ WEIGHTS > 0) == batch.labels
    kinds = {"right": right & after, "wrong": ~right & ~after, "lost": right & ~after}
    groups = {
        "kind": [
            "right" if a else "wrong" if b else "lost" if c else "gained"
            for a, b, c in zip(*kinds.values(), strict=True)
        ]
    }
    asked = dataclasses.replace(asked, batches=batches_of(batch.rows, batch.labels, groups, 64))

    parts = study(Linear(WEIGHTS), asked)

    found = lines(parts)
    for line in found:
        if line["by"] == "kind":
            assert line["low"] == line["high"]
            assert line["unseen"] == pytest.approx(1 - 0.05 ** (1 / line["rows"]))
        else:
            assert line["low"] < line["high"]
            assert line["unseen"] is None
    assert len(found) == 14
    (text,) = parts[-1].warnings
    assert text.startswith("In 8 of 14 lines all rows came out alike")
    assert all(part.warnings == () for part in parts[:-1])


def test_a_change_that_changes_no_prediction_has_a_bound_too_and_no_intervals_have_none():
    asked = table_question([("a", Intervention((), "zero"))])
    batch = joined(asked)
    rows = {"x": batch.rows["x"] * np.array([0, 1, 1, 1], np.float32)}
    asked = dataclasses.replace(asked, batches=batches_of(rows, batch.labels, {}, 64))

    parts = study(Linear(WEIGHTS), asked)

    for line in lines(parts):
        assert (line["unseen"] is None) == (line["change"] == "none")
        if line["change"] != "none":
            assert (line["difference low"], line["difference high"]) == (0.0, 0.0)
    assert parts[-1].warnings == ()

    without = study(Linear(WEIGHTS), asked, bootstrap=0)
    assert {line["unseen"] for line in lines(without)} == {None}
