"""`wsss.data.sources.folder`, `voc` and `coco`: listing collections as users have them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_images import encoded, oriented, picture
from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.images import BadImage, encode_mask
from wsss.data.sources import folder
from wsss.data.sources.base import ListedImage
from wsss.data.sources.coco import decode_run_lengths, draw_mask, fill_polygon, read_coco
from wsss.data.sources.files import stem
from wsss.data.sources.folder import hash_fraction, make_record, read_folder
from wsss.data.sources.mask_coding import find_mask_coding
from wsss.data.sources.voc import CLASS_NAMES, read_voc

IMAGE = encoded(picture())


def write(folder, content):
    for name, data in content.items():
        io.write_bytes(folder / name, data.encode() if isinstance(data, str) else data)


def reasons(source):
    return {problem.id: problem.reason for problem in source.problems}


def read(folder, table, **options):
    io.write_text(folder / "labels.csv", table)
    return read_folder(str(folder / "images"), str(folder / "labels.csv"), **options)


def test_ids_match_files_with_or_without_suffix_and_in_sub_folders(tmp_path):
    write(tmp_path / "images", {"a.jpg": IMAGE, "b.JPG": IMAGE, "sub/c.png": IMAGE, "notes.txt": "x"})
    source = read(tmp_path, "id,cat\na,1\nb.JPG,0\nsub/c,1\n")
    assert [(item.image_id, item.labels) for item in source.items] == [
        ("a", (0,)),
        ("b", ()),
        ("sub/c", (0,)),
    ]
    assert source.items[2].image == str(tmp_path / "images" / "sub" / "c.png")
    assert source.problems == []
    assert source.notes == ["files in the folder that are no images: 1"]
    assert not source.has_masks


def test_missing_untagged_and_duplicate_images_are_distinguished(tmp_path):
    names = ("a.jpg", "twin.jpg", "twin.png", "again.jpg", "agree.jpg", "stray.jpg", "wrong.jpg")
    write(tmp_path / "images", dict.fromkeys(names, IMAGE))
    rows = ["a,1", "gone,1", "twin,1", "again,1", "again,0", "agree,1", "agree,1", "wrong,7"]
    source = read(tmp_path, "\n".join(["id,cat", *rows]))
    assert [item.image_id for item in source.items] == ["a", "agree"]
    assert reasons(source) == {
        "wrong": "wrongly_labelled",
        "gone": "missing",
        "twin": "duplicate",
        "again": "duplicate",
        "agree": "duplicate",
        "stray": "unlabelled",
    }


def test_images_that_differ_in_the_suffix_keep_it_in_their_ids(tmp_path):
    write(tmp_path / "images", {"twin.jpg": IMAGE, "twin.png": IMAGE})
    source = read(tmp_path, "id,cat\ntwin.jpg,1\ntwin.png,0\n")
    assert [item.image_id for item in source.items] == ["twin.jpg", "twin.png"]


def test_masks_are_found_by_name_also_inside_the_folder_of_images(tmp_path):
    write(tmp_path / "images", {"a.jpg": IMAGE, "b.jpg": IMAGE, "masks/a.png": IMAGE, "masks/z.png": IMAGE})
    source = read(tmp_path, "id,cat\na,1\nb,0\n", masks=str(tmp_path / "images" / "masks"))
    assert [item.mask for item in source.items] == [str(tmp_path / "images" / "masks" / "a.png"), None]
    assert source.has_masks
    assert source.problems == []
    assert source.notes == ["masks without an image in the table: 1"]


def test_masks_of_which_none_has_the_name_of_an_image_are_refused(tmp_path):
    write(tmp_path / "images", {"a.jpg": IMAGE, "b.jpg": IMAGE, "masks/a_mask.png": IMAGE})
    with pytest.raises(UserError, match=r"None of the images has a mask .*a_mask\.png, but no a\.png"):
        read(tmp_path, "id,cat\na,1\nb,0\n", masks=str(tmp_path / "images" / "masks"))


def test_masks_may_lie_beside_their_images(tmp_path):
    write(tmp_path / "images", {"a.jpg": IMAGE, "a.png": IMAGE, "b.JPG": IMAGE, "c.png": IMAGE})
    for masks in (tmp_path / "images", f"{tmp_path}/./images/"):
        source = read(tmp_path, "id,cat\na,1\nb,0\nc,1\n", masks=str(masks))
        assert [item.image_id for item in source.items] == ["a", "b", "c"]
        assert [item.mask is not None for item in source.items] == [True, False, False]
        assert source.items[0].mask.endswith("images/a.png")
        assert source.problems == []


def test_an_id_that_names_no_file_gets_a_hint(tmp_path):
    write(tmp_path / "images", {"0007.jpg": IMAGE, "Cat.JPG": IMAGE})
    source = read(tmp_path, "id,cat\n7,1\ncat.jpg,0\n")
    remedies = {problem.id: problem.remedy for problem in source.problems if problem.reason == "missing"}
    assert "`0007.jpg` (leading zeros" in remedies["7"]
    assert "`Cat.JPG` (upper and lower case" in remedies["cat.jpg"]


def test_listing_reads_each_untagged_image_once(tmp_path, monkeypatch):
    """The work grows with the number of images, not with its square."""
    write(tmp_path / "images", dict.fromkeys((f"{index}.jpg" for index in range(200)), b""))
    made = []
    monkeypatch.setattr(folder, "stem", lambda path: made.append(path) or stem(path))
    source = read(tmp_path, "id,cat\n0,1\n")
    assert list(reasons(source).values()) == ["unlabelled"] * 199
    assert len(made) < 200 * 6


def test_splits_come_from_the_table_or_from_a_stable_hash(tmp_path):
    write(tmp_path / "images", {f"{index}.jpg": IMAGE for index in range(40)})
    rows = "".join(f"{index},1\n" for index in range(40))
    assert {item.split for item in read(tmp_path, "id,cat\n" + rows).items} == {"train"}
    splits = {item.image_id: item.split for item in read(tmp_path, "id,cat\n" + rows, val_fraction=0.3).items}
    assert splits == {name: "val" if hash_fraction(name) < 0.3 else "train" for name in splits}
    assert 5 <= list(splits.values()).count("val") <= 20
    with pytest.raises(UserError, match="val_fraction"):
        read(tmp_path, "id,split,cat\n0,train,1\n", val_fraction=0.3)


def test_paths_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match="--images"):
        read(tmp_path, "id,cat\na,1\n")
    with pytest.raises(UserError, match="--labels"):
        read_folder(str(tmp_path), str(tmp_path / "none.csv"))


def make(image=IMAGE, mask=None, *, shapes=None, classes=2, has_masks=True):
    return make_record(
        ListedImage("a", "train", (1,), "", shapes), image, mask, classes=classes, has_masks=has_masks
    )


def test_a_record_holds_the_image_as_it_was_and_a_grey_mask():
    mask = np.full((7, 12), 2, np.uint8)
    mask[0] = 255
    palette = np.zeros((256, 3), np.uint8)
    record = make(mask=encode_mask(mask, palette))
    assert record.image_bytes == IMAGE
    assert (record.image_id, record.labels, record.height, record.width) == ("a", (1,), 7, 12)
    np.testing.assert_array_equal(record.mask, mask)
    assert make(has_masks=False).mask is None
    assert (make().mask == 255).all()


def test_a_mask_must_fit_the_upright_image():
    standing = encode_mask(np.zeros((12, 7), np.uint8))
    assert make(oriented(6), standing).mask.shape == (12, 7)
    for image, mask in ((oriented(6), encode_mask(np.zeros((7, 12), np.uint8))), (IMAGE, standing)):
        with pytest.raises(BadImage) as caught:
            make(image, mask)
        assert caught.value.reason == "mask_size"


def test_a_mask_with_numbers_beyond_the_classes_is_refused():
    with pytest.raises(BadImage) as caught:
        make(mask=encode_mask(np.full((7, 12), 3, np.uint8)))
    assert caught.value.reason == "mask_values"


def test_shapes_that_cannot_be_drawn_are_a_bad_mask():
    shapes = {"height": 7, "width": 12, "shapes": [[1, {"size": [7, 12], "counts": [3]}]]}
    with pytest.raises(BadImage) as caught:
        make(shapes=shapes)
    assert caught.value.reason == "mask_corrupt"


def voc_devkit(root):
    def annotation(*names):
        objects = "".join(
            f"<object><name>{name}</name><part><name>head</name></part></object>" for name in names
        )
        return f"<annotation><filename>x</filename>{objects}</annotation>"

    write(
        root,
        {
            "JPEGImages/1.jpg": IMAGE,
            "JPEGImages/2.jpg": IMAGE,
            "Annotations/1.xml": annotation("person", "cat", "person"),
            "Annotations/2.xml": annotation("dog"),
            "Annotations/4.xml": "<annotation>",
            "SegmentationClass/1.png": encode_mask(np.full((7, 12), 8, np.uint8)),
            "ImageSets/Segmentation/train.txt": "1\n",
            "ImageSets/Segmentation/val.txt": "2\n3\n4\n",
            "ImageSets/Segmentation/trainval.txt": "1\n2\n3\n4\n",
            "ImageSets/Main/train.txt": "2 -1\n",
            "ImageSets/Main/trainaug.txt": "1\n2\n",
        },
    )


@pytest.mark.parametrize("inside", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_a_voc_devkit_is_listed(tmp_path, inside):
    voc_devkit(tmp_path / inside)
    source = read_voc(str(tmp_path))
    assert source.class_names == CLASS_NAMES
    assert [(item.split, item.image_id) for item in source.items] == [
        ("train", "1"),
        ("val", "2"),
        ("trainaug", "1"),
        ("trainaug", "2"),
    ]
    first, second = source.items[:2]
    assert [CLASS_NAMES[label] for label in first.labels] == ["cat", "person"]
    assert first.mask.endswith("SegmentationClass/1.png")
    assert second.mask is None
    assert reasons(source) == {"3": "unlabelled", "4": "wrongly_labelled"}


def own_devkit(root, tags, masks, **files):
    """A devkit of own classes: image id -> tags, and image id -> the number in all of its mask."""
    content = {"ImageSets/Main/train.txt": "\n".join(masks), **files}
    for image_id, names in tags.items():
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        content[f"Annotations/{image_id}.xml"] = f"<annotation>{objects}</annotation>"
    for image_id, number in masks.items():
        content[f"JPEGImages/{image_id}.jpg"] = IMAGE
        content[f"SegmentationClass/{image_id}.png"] = encode_mask(np.full((7, 12), number, np.uint8))
    write(root, content)


TRACTOR_AND_COW = ({"a": ["tractor"], "b": ["cow"], "c": ["cow"]}, {"a": 1, "b": 2, "c": 2})


@pytest.mark.parametrize(
    "files",
    [
        {"class_names.txt": "_background_\ntractor\ncow\n"},
        {"class_names.txt": "__ignore__\n_background_\ntractor\ncow\n"},
        {"labelmap.txt": "# label:color_rgb\nbackground:0,0,0::\ntractor:128,0,0::\ncow:0,9,9::\n"},
    ],
)
def test_the_classes_of_a_devkit_are_those_of_its_list(tmp_path, files):
    own_devkit(tmp_path, *TRACTOR_AND_COW, **files)
    source = read_voc(str(tmp_path))
    assert source.class_names == ("tractor", "cow")
    assert [item.labels for item in source.items] == [(0,), (1,), (1,)]
    assert next(iter(files)) in source.notes[0]
    find_mask_coding(source.items, source.class_names, source.mask_colors)


def test_classes_may_be_given_for_a_devkit_and_unknown_tags_are_problems(tmp_path):
    own_devkit(tmp_path, *TRACTOR_AND_COW)
    write(tmp_path, {"classes.txt": "tractor\ncows\n"})
    source = read_voc(str(tmp_path), str(tmp_path / "classes.txt"))
    assert source.class_names == ("tractor", "cows")
    assert reasons(source) == {"b": "wrongly_labelled", "c": "wrongly_labelled"}
    assert "`cows`?" in source.problems[0].detail


def test_tags_that_contradict_the_numbers_of_the_masks_are_refused(tmp_path):
    own_devkit(tmp_path, *TRACTOR_AND_COW)
    source = read_voc(str(tmp_path))  # cow before tractor, as in the alphabet
    with pytest.raises(UserError, match=r"3 of 3 images contradict.*cow \(1\).*2 \(tractor\).*--classes"):
        find_mask_coding(source.items, source.class_names)


def test_without_annotations_the_tags_are_the_classes_in_the_masks(tmp_path):
    own_devkit(tmp_path, {}, {"a": 1, "b": 15, "c": 255})
    source = read_voc(str(tmp_path))
    assert source.class_names == CLASS_NAMES
    assert [item.labels for item in source.items] == [(0,), (14,), ()]
    assert any("no Annotations" in note for note in source.notes)


def test_images_of_a_devkit_may_have_other_suffixes_and_blanks_in_their_names(tmp_path):
    own_devkit(tmp_path, {"a": ["cow"], "my cow 1": ["cow"], "d": ["cow"]}, {"a": 255, "my cow 1": 255})
    write(tmp_path, {"JPEGImages/d.JPG": IMAGE, "JPEGImages/e.png": IMAGE})
    write(tmp_path, {"ImageSets/Main/train.txt": "a -1\nmy cow 1\nd.JPG\n", "ImageSets/Main/val.txt": "e\n"})
    source = read_voc(str(tmp_path))
    assert [item.image_id for item in source.items] == ["a", "my cow 1", "d"]
    assert source.items[2].image.endswith("d.JPG")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "cp1252", "gbk", "shift_jis", "big5"])
def test_annotations_may_be_in_any_encoding(tmp_path, encoding):
    name = "\u725b" if encoding in ("gbk", "shift_jis", "big5") else "v\u00e9lo"
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    xml = f"{head}<annotation><object><name>{name}</name></object></annotation>"
    own_devkit(tmp_path, {}, {"a": 255})
    write(tmp_path, {"Annotations/a.xml": xml.encode(encoding)})
    assert read_voc(str(tmp_path)).class_names == (name,)


def test_a_namespace_hides_no_tag(tmp_path):
    own_devkit(tmp_path, {}, {"a": 255})
    write(tmp_path, {"Annotations/a.xml": '<a xmlns="urn:x"><object><name>cow</name></object></a>'})
    assert read_voc(str(tmp_path)).items[0].labels == (CLASS_NAMES.index("cow"),)


def test_a_folder_of_photographs_of_a_devkit_is_not_passed_over(tmp_path):
    own_devkit(tmp_path, *TRACTOR_AND_COW)
    with pytest.raises(UserError, match="`--images` must be a folder with images"):
        read_voc(str(tmp_path), images=str(tmp_path / "nowhere"))


def test_an_encoding_that_is_none_is_a_problem_of_its_image(tmp_path):
    own_devkit(tmp_path, {"b": ["cow"]}, {"a": 255, "b": 255})
    write(tmp_path, {"Annotations/a.xml": b'<?xml version="1.0" encoding="klingon"?><annotation/>'})
    assert reasons(read_voc(str(tmp_path))) == {"a": "wrongly_labelled"}


def test_what_is_no_devkit_is_refused(tmp_path):
    with pytest.raises(UserError, match="devkit"):
        read_voc(str(tmp_path))
    with pytest.raises(UserError, match="instances"):
        read_coco(str(tmp_path))


def coco_content(**changes):
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    content = {
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
        "images": [
            {"id": 7, "file_name": "000007.jpg", "height": 7, "width": 12},
            {"id": 8, "file_name": "000008.jpg", "height": 7, "width": 12},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 90, "segmentation": [square], "area": 9},
            {"image_id": 7, "category_id": 3, "segmentation": [[0, 0, 12, 0, 12, 7, 0, 7]], "area": 84},
        ],
    }
    return json.dumps({**content, **changes})


def test_coco_is_listed_with_contiguous_classes(tmp_path):
    write(tmp_path, {"annotations/instances_train2017.json": coco_content(), "train2017/000008.jpg": IMAGE})
    source = read_coco(str(tmp_path))
    assert source.class_names == ("car", "toothbrush")
    assert [(item.split, item.image_id, item.labels) for item in source.items] == [
        ("train", "000007", (0, 1)),
        ("train", "000008", ()),
    ]
    assert source.items[1].image == str(tmp_path / "train2017" / "000008.jpg")
    mask = draw_mask(source.items[0].mask)
    expected = np.ones((7, 12), np.uint8)  # the large car lies under the small toothbrush
    expected[1:4, 1:4] = 2
    np.testing.assert_array_equal(mask, expected)


def test_an_object_outside_the_image_is_unknown(tmp_path):
    """Its polygons are those of the image before it was made smaller."""
    far, square = [20, 20, 40, 20, 40, 40], [1, 1, 4, 1, 4, 4, 1, 4]
    for polygons, expected in (([far], [255]), ([far, square], [0, 2]), ([[-9, 1, 0, 1, 0, 4]], [255])):
        annotations = [{"image_id": 7, "category_id": 90, "segmentation": polygons}]
        content = coco_content(annotations=annotations)
        write(tmp_path, {"annotations/instances_train.json": content, "train/000008.jpg": IMAGE})
        source = read_coco(str(tmp_path))
        assert np.unique(draw_mask(source.items[0].mask)).tolist() == expected
        assert len(source.notes) == (expected == [255])


def test_a_category_of_the_background_is_no_class(tmp_path):
    categories = [{"id": 90, "name": "_background_"}, {"id": 3, "name": "car"}]
    content = coco_content(categories=categories)
    write(tmp_path, {"annotations/instances_train.json": content, "train/000008.jpg": IMAGE})
    source = read_coco(str(tmp_path))
    assert (source.class_names, source.items[0].labels) == (("car",), (0,))
    assert np.unique(draw_mask(source.items[0].mask)).tolist() == [0, 1]
    assert "`_background_`, is no class" in source.notes[0]


def test_a_class_called_background_is_refused(tmp_path):
    own_devkit(tmp_path, {"a": ["background"]}, {"a": 255})
    with pytest.raises(UserError, match="class `background`; the background is number 0"):
        read_voc(str(tmp_path))


def test_faults_of_a_coco_file_are_found(tmp_path):
    strange = [{"image_id": 7, "category_id": 5, "segmentation": []}]
    write(tmp_path, {"annotations/instances_val.json": coco_content(annotations=strange)})
    assert reasons(read_coco(str(tmp_path))) == {"000007": "wrongly_labelled"}
    write(tmp_path, {"annotations/instances_val.json": "{}"})
    with pytest.raises(UserError, match="instances file"):
        read_coco(str(tmp_path))


def read_annotations(folder, **changes):
    write(folder, {"annotations/instances_train.json": coco_content(**changes), "train/000007.jpg": IMAGE})
    return read_coco(str(folder))


SQUARE = {"image_id": 7, "category_id": 90, "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]], "area": 9}


@pytest.mark.parametrize(
    "segmentation", [[], None, "absent", [[]], [[[1, 1], [4, 1], [4, 4]]], [[1, 1]], {}, "text", 5, [None]]
)
def test_a_tagged_object_without_shape_is_unknown_and_never_background(tmp_path, segmentation):
    annotation = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 3, 3], "segmentation": segmentation}
    if segmentation == "absent":
        del annotation["segmentation"]
    source = read_annotations(tmp_path, annotations=[annotation, SQUARE])
    assert source.items[0].labels == (0, 1)
    mask = draw_mask(json.loads(json.dumps(source.items[0].mask)))
    assert (mask[1:4, 1:4] == 2).all()
    assert np.unique(mask).tolist() == [2, 255]
    assert "images with annotations that have no shape, their other pixels unknown: 1" in source.notes


def test_a_single_polygon_needs_no_list_around_it(tmp_path):
    flat = {**SQUARE, "segmentation": SQUARE["segmentation"][0]}
    one, two = (read_annotations(tmp_path, annotations=[each]).items[0].mask for each in (flat, SQUARE))
    np.testing.assert_array_equal(draw_mask(one), draw_mask(two))


@pytest.mark.parametrize(("image_id", "category_id"), [("7", "90"), (7.0, "90"), ("0007", 90.0), (" 7 ", 90)])
def test_ids_match_whatever_their_type(tmp_path, image_id, category_id):
    changed = {**SQUARE, "image_id": image_id, "category_id": category_id}
    assert read_annotations(tmp_path, annotations=[changed]).items[0].labels == (1,)


def test_annotations_of_no_listed_image_are_refused_or_counted(tmp_path):
    lost = {**SQUARE, "image_id": 70}
    with pytest.raises(UserError, match="none of the 1 annotations belongs to a listed image"):
        read_annotations(tmp_path, annotations=[lost])
    source = read_annotations(tmp_path, annotations=[SQUARE, {**lost, "id": 12}])
    assert source.notes[0].endswith("not listed: 1, such as annotation 12 of image 70")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 7, "file_name": "a.jpg", "width": 12}]}, "image 7: `height` must be a number"),
        ({"images": [{"id": 7, "height": 7, "width": 12}]}, "image 7: `file_name` must be the name"),
        ({"images": [{"file_name": "a.jpg", "height": 7, "width": 12}]}, "image at position 0: `id`"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "height": 0, "width": 12}]}, "Received: 0"),
        ({"annotations": [{"id": 4, "image_id": 7}]}, "annotation 4: `category_id` must be"),
        ({"annotations": [{"id": 4, "category_id": 3}]}, "annotation 4: `image_id` must be"),
        ({"annotations": None}, "`annotations` must be a list"),
        ({"annotations": [None]}, "annotation 0 must be an object"),
        ({"images": {}}, "`images` must be a list"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 90, "name": "a"}]}, "3 and 90 are both called `a`"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": "3", "name": "b"}]}, "that of another category"),
        ({"categories": [{"id": 3, "name": None}]}, "category 3: `name` must be a name"),
    ],
)
def test_a_missing_or_malformed_field_is_named_with_its_entry(tmp_path, changes, message):
    with pytest.raises(UserError) as caught:
        read_annotations(tmp_path, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_null_areas_and_numbers_as_names_are_understood(tmp_path):
    annotations = json.loads(coco_content())["annotations"]
    for annotation in annotations:
        annotation["area"] = None
    categories = [{"id": 90, "name": 12}, {"id": 3, "name": 1.5}]
    source = read_annotations(tmp_path, annotations=annotations, categories=categories)
    assert source.class_names == ("1.5", "12")
    assert (draw_mask(source.items[0].mask)[1:4, 1:4] == 2).all()  # small ones are on top all the same


def test_images_of_one_name_but_another_suffix_are_two(tmp_path):
    images = [{"id": i, "file_name": f"a.{s}", "height": 7, "width": 12} for i, s in ((7, "jpg"), (8, "png"))]
    source = read_annotations(tmp_path, images=images)
    assert [item.image_id for item in source.items] == ["a.jpg", "a.png"]


def test_the_memory_of_a_mask_is_not_asked_for_before_its_size_is_that_of_the_image():
    with pytest.raises(BadImage, match="1000000x1000000"):
        make(shapes={"height": 10**6, "width": 10**6, "shapes": []})
    runs = {"size": [10**6, 10**6], "counts": [10**12]}
    with pytest.raises(BadImage, match="run lengths of size"):
        make(shapes={"height": 7, "width": 12, "shapes": [[1, runs]]})


def compress(counts):
    """COCO's string of run lengths, written from its description as the oracle of the reader."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12))
def test_compressed_run_lengths_are_the_plain_ones(counts):
    size = [1, sum(counts)]
    plain = decode_run_lengths({"size": size, "counts": counts})
    np.testing.assert_array_equal(plain, decode_run_lengths({"size": size, "counts": compress(counts)}))
    assert plain.sum() == sum(counts[1::2])


def test_run_lengths_go_down_the_columns():
    mask = decode_run_lengths({"size": [2, 3], "counts": [1, 2, 3]})
    np.testing.assert_array_equal(mask, [[False, True, False], [True, False, False]])


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 15)), min_size=3, max_size=6))
def test_a_polygon_holds_the_pixels_whose_centres_are_inside(corners):
    inside = fill_polygon([value for corner in corners for value in corner], 11, 19)
    for row in range(11):
        for column in range(19):
            x, y, crossings = column + 0.5, row + 0.5, 0
            for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
                if (y0 <= y) != (y1 <= y):
                    crossings += x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x
            assert inside[row, column] == crossings % 2
