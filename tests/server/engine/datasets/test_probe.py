"""Rows of data sets as methods of `Dissect` look at them: masks against what pictures and geometry say."""

import io
import tracemalloc

import numpy as np
import pytest
from e2e.small_models import PICTURES, SCORES, write_pictures, write_scores
from pellucid_server.engine.asking.probes import Concept
from pellucid_server.engine.datasets.catalogue import scan
from pellucid_server.engine.datasets.probe import open_probe
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.errors import UnavailableError, UnsupportedError
from pellucid_server.scenes.command import write_scenes
from pellucid_server.scenes.scenes import scene
from PIL import Image

SIDE = 12
"""Of the model's input; its pictures are resized so that their short side has as many pixels."""

TOML = 'kind = "pictures"\ndata = "pictures.csv"\nmasks = "masks"\n'


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_pictures(folder)
    write_scores(folder)
    return {model.name: model for model in load_repository(folder, "cpu", 1)}


@pytest.fixture
def model(models):
    return models[PICTURES]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, "PNG")


def opened(folder, model, most=0, name="set"):
    return open_probe(scan(folder).find(name), model, most)


def masks_of(probe, number=0):
    """Return a row's masks by category and concept."""
    found = [masks for batch in probe.batches(4, masks=True) for masks in batch.masks][number]
    named = [probe.concepts[at] for at in found.concepts]
    return {(each.category, each.name): mask for each, mask in zip(named, found.masks, strict=True)}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_scenes(folder / "set", 6, seed=5, size=48)
    return folder


def test_masks_of_a_generated_set_are_every_fourth_pixel_of_its_own(generated, model):
    # 48 pixels become 12: the centre of each four by four, 4 k + 2, lies in the pixel of that number.
    probe = opened(generated, model)

    for number in range(6):
        wanted = {key: mask[2::4, 2::4] for key, mask in scene(number, 5, 48).masks.items()}
        found = masks_of(probe, number)
        assert set(found) == {key for key, mask in wanted.items() if mask.any()}
        for key, mask in found.items():
            assert np.array_equal(mask, wanted[key])


def test_the_data_set_is_listed_with_its_concepts_and_categories(generated):
    (info,) = scan(generated).infos

    assert (info.concepts, info.categories) == (27, ("color", "texture", "shape", "ground", "position"))
    assert (info.rows, info.label, info.groups) == (6, "shape", ("color", "texture", "ground"))


def test_rows_labels_and_numbers_are_those_of_the_set(generated, model):
    probe = opened(generated, model)
    batches = list(probe.batches(4, first=1))

    assert [batch.numbers.tolist() for batch in batches] == [[1, 2, 3, 4], [5]]
    assert sum((batch.labels for batch in batches), ()) == tuple(scene(number, 5, 48).label for number in range(1, 6))
    assert all(batch.masks == () for batch in batches)
    rows = np.concatenate([batch.rows["image"] for batch in batches])
    assert np.array_equal(probe.rows([4, 2, 4])["image"], rows[[3, 1, 3]])


def test_pictures_are_the_pixels_that_the_model_sees(generated, model):
    probe = opened(generated, model)

    first, second = probe.pictures([3, 0])

    for number, found in ((3, first), (0, second)):
        picture = Image.fromarray(scene(number, 5, 48).picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        assert np.array_equal(found, np.asarray(picture))
    assert probe.names([3, 0]) == ("pictures/000003.png", "pictures/000000.png")


def test_a_limit_of_rows_holds(generated, model):
    probe = opened(generated, model, most=3)

    assert probe.count == 3
    assert [batch.count for batch in probe.batches(2)] == [2, 1]


def test_random_access_opens_the_asked_pictures_alone(generated, model, tmp_path):
    folder = tmp_path / "sets"
    write_scenes(folder / "set", 4, seed=5, size=48)
    probe = opened(folder, model)
    (folder / "set" / "pictures" / "000001.png").write_bytes(b"no picture")

    assert len(probe.pictures([0, 3])) == 2
    with pytest.raises((UnsupportedError, UnavailableError)):
        probe.pictures([1])


def wide(folder, **masks):
    """Write a set of one picture, 36 by 24, with a mask by concept; the model sees the middle 24 by 24, halved."""
    save(folder / "set" / "pictures" / "wide.png", np.zeros((24, 36, 3), np.uint8))
    (folder / "set" / "pictures.csv").write_text("file,label\npictures/wide.png,cat\n")
    (folder / "set" / "dataset.toml").write_text(TOML)
    for concept, mask in masks.items():
        save(folder / "set" / "masks" / "object" / concept / "pictures" / "wide.png", mask)
    return folder


def test_a_mask_is_cropped_as_its_picture_is(tmp_path, model):
    left, right = np.zeros((24, 36), np.bool_), np.zeros((24, 36), np.bool_)
    left[:, :10], right[4:8, 20:] = True, True
    outside = np.zeros((24, 36), np.bool_)
    outside[:, :6] = True

    found = masks_of(opened(wide(tmp_path, left=left, right=right, outside=outside), model))

    # Position k of the input is at the pixels 6 + 2 k + 1 across and 2 k + 1 down.
    wanted_left, wanted_right = np.zeros((SIDE, SIDE), np.bool_), np.zeros((SIDE, SIDE), np.bool_)
    wanted_left[:, :2], wanted_right[2:4, 7:] = True, True
    assert set(found) == {("object", "left"), ("object", "right")}
    assert np.array_equal(found["object", "left"], wanted_left)
    assert np.array_equal(found["object", "right"], wanted_right)


def test_a_mask_of_another_size_is_sampled_at_the_same_places(tmp_path, model):
    small = np.zeros((4, 6), np.uint8)
    small[1, 2] = 7

    found = masks_of(opened(wide(tmp_path, dot=small), model))

    # An element is 6 by 6 pixels: 12 to 18 across and 6 to 12 down, from which the crop's edge, 6, is taken off.
    wanted = np.zeros((SIDE, SIDE), np.bool_)
    wanted[3:6, 3:6] = True
    assert np.array_equal(found["object", "dot"], wanted)


def test_a_mask_of_another_shape_is_refused_with_both_sizes(tmp_path, model):
    folder = wide(tmp_path, dot=np.ones((24, 24), np.uint8))

    with pytest.raises(UnsupportedError, match="24 by 24 pixels, and its picture 36 by 24"):
        masks_of(opened(folder, model))


def test_concepts_that_columns_name_are_everywhere(tmp_path, model):
    folder = wide(tmp_path, dot=np.ones((24, 36), np.bool_))
    (folder / "set" / "pictures.csv").write_text("file,label,scene\npictures/wide.png,cat,street; night\n")
    (folder / "set" / "dataset.toml").write_text(TOML + 'concepts = ["scene", "label"]\n')
    probe = opened(folder, model)

    found = masks_of(probe)

    assert probe.concepts == tuple(
        Concept(name, category)
        for category, name in [("object", "dot"), ("scene", "night"), ("scene", "street"), ("label", "cat")]
    )
    assert all(mask.all() for mask in found.values())
    assert len(found) == 4


def test_label_maps_are_of_palettes_or_greys_and_their_values_are_named(tmp_path, model):
    folder = wide(tmp_path)
    labels = np.zeros((24, 36), np.uint16)
    labels[:12], labels[12:, 18:] = 1, 300
    save(folder / "set" / "masks" / "part" / "pictures" / "wide.png", labels)
    table = "category,index,name\npart,1,upper half\npart,300,lower / right\n"
    (folder / "set" / "masks" / "concepts.csv").write_text(table)

    found = masks_of(opened(folder, model))

    assert set(found) == {("part", "upper half"), ("part", "lower / right")}
    assert np.array_equal(found["part", "upper half"], np.arange(SIDE)[:, None] < np.full(SIDE, 6))
    assert found["part", "lower / right"][6:, 6:].all()
    assert found["part", "lower / right"].sum() == 36


def test_a_value_that_no_line_names_is_refused_by_the_file(tmp_path, model):
    folder = wide(tmp_path)
    save(folder / "set" / "masks" / "part" / "pictures" / "wide.png", np.full((24, 36), 9, np.uint8))
    (folder / "set" / "masks" / "concepts.csv").write_text("category,index,name\npart,1,wheel\n")

    with pytest.raises(UnsupportedError, match=r"masks/part/pictures/wide\.png has the value 9"):
        masks_of(opened(folder, model))


def test_a_label_map_of_a_category_that_no_table_names_is_refused(tmp_path, model):
    folder = wide(tmp_path)
    save(folder / "set" / "masks" / "part" / "pictures" / "wide.png", np.ones((24, 36), np.uint8))

    with pytest.raises(UnsupportedError, match=r"masks/part/pictures/wide\.png is a label map, and concepts\.csv"):
        masks_of(opened(folder, model))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("category,number,name\npart,1,wheel\n", "must have the columns category, index, name"),
        ("category,index,name\npart,0,wheel\n", "line 2: the index must be a whole number from 1 to 65535"),
        ("category,index,name\npart,1,wheel\npart,1,door\n", "line 3: the category has the index 1 twice"),
        ("category,index,name\n../out,1,wheel\n", "the category must be the name of a folder"),
        ('category,index,name\npart,1,"two\nlines"\n', "a name must be 1 to 256 characters that print"),
    ],
)
def test_a_wrong_table_of_concepts_makes_the_set_broken(tmp_path, table, words):
    folder = wide(tmp_path)
    (folder / "set" / "masks").mkdir()
    (folder / "set" / "masks" / "concepts.csv").write_text(table)

    (info,) = scan(folder).infos

    assert words in info.reason


def test_masks_must_be_a_folder_within_the_set(tmp_path):
    folder = wide(tmp_path)
    (folder / "other").mkdir()
    for name in ("../other", "/tmp", "pictures.csv", "nothing"):
        (folder / "set" / "dataset.toml").write_text(TOML.replace('"masks"', f'"{name}"'))

        assert "must be the name of a folder in the folder of dataset.toml" in scan(folder).infos[0].reason


def test_a_mask_that_leads_out_of_the_set_is_refused(tmp_path, model):
    folder = wide(tmp_path, dot=np.ones((24, 36), np.bool_))
    probe = opened(folder, model)
    mask = folder / "set" / "masks" / "object" / "dot" / "pictures" / "wide.png"
    mask.rename(folder / "outside.png")
    mask.symlink_to(folder / "outside.png")

    with pytest.raises((UnsupportedError, UnavailableError)):
        masks_of(probe)


def test_the_digest_covers_masks(tmp_path):
    first = wide(tmp_path / "one", dot=np.ones((24, 36), np.bool_))
    second = wide(tmp_path / "two", dot=np.zeros((24, 36), np.bool_))

    assert scan(first).infos[0].digest != scan(second).infos[0].digest


def test_a_folder_of_pictures_has_masks_by_paths_below_it(tmp_path, model):
    save(tmp_path / "set" / "photos" / "cat" / "one.png", np.zeros((24, 24, 3), np.uint8))
    save(tmp_path / "set" / "masks" / "object" / "ear" / "cat" / "one.png", np.ones((24, 24), np.bool_))
    toml = 'kind = "pictures"\ndata = "photos"\nmasks = "masks"\nconcepts = ["label"]\n'
    (tmp_path / "set" / "dataset.toml").write_text(toml)

    assert set(masks_of(opened(tmp_path, model))) == {("object", "ear"), ("label", "cat")}


def test_pictures_without_labels_have_none_and_no_study_runs_on_them(tmp_path, model):
    folder = wide(tmp_path)
    (folder / "set" / "masks").mkdir()
    (folder / "set" / "pictures.csv").write_text("file\npictures/wide.png\n")
    (folder / "set" / "dataset.toml").write_text(TOML + 'label = ""\n')

    (batch,) = opened(folder, model).batches(4, masks=True)

    assert batch.labels == ()
    assert len(batch.masks[0].concepts) == 0
    assert batch.masks[0].masks.shape == (0, SIDE, SIDE)


def test_tables_have_names_and_no_pictures(tmp_path, models):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.toml").write_text('kind = "table"\ndata = "rows.csv"\nlabel = "size"\n')
    (tmp_path / "set" / "rows.csv").write_text("width,height,colour,size\n1,2,red,large\n3,4,blue,small\n")
    probe = opened(tmp_path, models[SCORES])

    assert probe.names([1, 0]) == ("row 1", "row 0")
    assert probe.concepts == ()
    with pytest.raises(UnsupportedError, match="its rows are no pictures"):
        probe.pictures([0])


def rgb(numbers):
    numbers = np.asarray(numbers)
    return np.stack([numbers % 256, numbers // 256, np.zeros_like(numbers)], axis=-1).astype(np.uint8)


@pytest.fixture
def broden(tmp_path):
    """A set of the Broden layout: two pictures of 24 by 24, masks of 12 by 12."""
    folder = tmp_path / "set"
    for name in ("ade/one.png", "ade/two.png"):
        save(folder / "images" / name, np.zeros((24, 24, 3), np.uint8))
    colours, parts, more = np.zeros((3, 12, 12), np.int64)
    colours[:6], colours[6:] = 1, 300
    parts[2:4, 2:4] = 7
    more[2:4, 4:6] = 8
    for name, numbers in (("color", colours), ("part", parts), ("part_2", more)):
        save(folder / "images" / "ade" / f"one_{name}.png", rgb(numbers))
    index = (
        "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture\n"
        "ade/one.png,train,24,24,12,12,ade/one_color.png,,ade/one_part.png;ade/one_part_2.png,,5,\n"
        "ade/two.png,val,24,24,12,12,,7,,,5;6,\n"
    )
    labels = (
        "number,name,category,frequency,coverage,syns\n"
        "0,-,,0,0,\n1,red-c,color(2),2,0.5,\n5,street-s,scene(2),2,2.0,\n6,night-s,scene(1),1,1.0,\n"
        "7,wheel,part(1);object(1),2,0.1,wheel;round thing\n8,door,part(1),1,0.1,\n300,blue-c,color(1),1,0.5,\n"
    )
    (folder / "index.csv").write_text(index)
    (folder / "label.csv").write_text(labels)
    categories = "name,first,last,count,frequency\ncolor,1,300,2,2\nobject,7,7,1,1\npart,7,8,2,2\nscene,5,6,2,3\n"
    (folder / "category.csv").write_text(categories)
    (folder / "dataset.toml").write_text('kind = "pictures"\nlayout = "broden"\ndata = "index.csv"\n')
    return tmp_path


def test_the_broden_layout_has_its_concepts_by_category_and_number(broden, model):
    probe = opened(broden, model)

    assert [(each.category, each.name) for each in probe.concepts] == [
        ("color", "red-c"),
        ("color", "blue-c"),
        ("object", "wheel"),
        ("part", "wheel"),
        ("part", "door"),
        ("scene", "street-s"),
        ("scene", "night-s"),
    ]
    assert probe.names([1]) == ("ade/two.png",)


def test_masks_of_the_broden_layout_are_numbers_of_two_channels(broden, model):
    probe = opened(broden, model)
    first, second = masks_of(probe, 0), masks_of(probe, 1)

    assert set(first) == {(each.category, each.name) for each in probe.concepts[:2] + probe.concepts[3:6]}
    assert first["color", "red-c"][:6].all()
    assert not first["color", "red-c"][6:].any()
    assert np.array_equal(first["color", "blue-c"], ~first["color", "red-c"])
    assert np.argwhere(first["part", "wheel"]).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert np.argwhere(first["part", "door"]).tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    assert set(second) == {("object", "wheel"), ("scene", "street-s"), ("scene", "night-s")}
    assert all(mask.all() for mask in second.values())


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("index.csv", ",5,\n", ",9,\n", "index.csv, line 2, column 'scene': a number is none of the category's"),
        ("index.csv", "one_color", "no_color", "images/ade/no_color.png cannot be read"),
        ("label.csv", "300,blue-c", "301,blue-c", "images/ade/one_color.png has the value 300"),
    ],
)
def test_what_is_wrong_in_the_broden_layout_is_named(broden, model, file, old, new, words):
    path = broden / "set" / file
    path.write_text(path.read_text().replace(old, new, 1))

    with pytest.raises(UnsupportedError) as caught:
        masks_of(opened(broden, model))

    assert words in caught.value.message


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("label.csv", "1,red-c", "x,red-c", "label.csv, line 3: the number must be a whole one"),
        ("label.csv", "color(2)", "colour(2)", "line 3: the category 'colour' is none of category.csv"),
        ("category.csv", "name,first", "title,first", "category.csv must have the columns name"),
    ],
)
def test_a_set_of_the_broden_layout_with_wrong_tables_is_broken(broden, file, old, new, words):
    path = broden / "set" / file
    path.write_text(path.read_text().replace(old, new, 1))

    assert words in scan(broden).infos[0].reason


def test_a_picture_that_is_turned_by_its_orientation_has_its_mask_upright(tmp_path, model):
    folder = wide(tmp_path)
    pixels = np.zeros((36, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", exif=exif)
    (folder / "set" / "pictures" / "wide.png").write_bytes(content.getvalue())
    save(folder / "set" / "masks" / "object" / "dot" / "pictures" / "wide.png", np.ones((24, 36), np.bool_))

    assert masks_of(opened(folder, model))["object", "dot"].all()


def peak_bytes(folder, model):
    probe = opened(folder, model)
    tracemalloc.start()
    try:
        rows = sum(batch.count for batch in probe.batches(16, masks=True))
        return rows, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_the_rows_take_the_same_memory(tmp_path, model):
    write_scenes(tmp_path / "small" / "set", 40, size=48)
    write_scenes(tmp_path / "large" / "set", 400, size=48)
    peak_bytes(tmp_path / "small", model)

    (few, small), (many, large) = (peak_bytes(tmp_path / name, model) for name in ("small", "large"))

    assert (few, many) == (40, 400)
    assert large < 1.1 * small


def test_no_numbers_are_no_rows_pictures_or_names(generated, model):
    probe = opened(generated, model)

    assert probe.rows([])["image"].shape == (0, 3, SIDE, SIDE)
    assert probe.pictures([]) == ()
    assert probe.names([]) == ()
