"""Captions of COCO joined with stimuli by a small table and small files."""

import json

import pytest

from engram.errors import InputError
from engram.readers import coco

TABLE = """,cocoId,cocoSplit,cropBox,nsdId
0,532481,val2017,"(0, 0, 0, 0)",0
1,9,train2017,"(0, 0, 0.1, 0.1)",1
2,25,train2017,"(0, 0, 0, 0)",2
"""


def annotated(*captions):
    keys = ("image_id", "id", "caption")
    return {"info": {}, "annotations": [dict(zip(keys, one, strict=True)) for one in captions]}


FILES = {
    "captions_train2017.json": annotated(
        (25, 7, "b"), (9, 3, " two\n lines. "), (25, 6, "a"), (9, 1, "first"), (25, 5, " "),
        *((25, 10 + i, f"c{i}") for i in range(4)), (532481, 99, "of another part"),
    ),
    "captions_val2017.json": annotated((532481, 4, "a kite"), (9, 2, "of another part")),
}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / "table.csv", [tmp_path / name for name in FILES]


def test_the_first_five_captions_of_a_photograph_in_the_order_of_their_numbers(files):
    assert coco.read_captions(*files, [2, 0, 1, 0]) == [
        ("a", "b", "c0", "c1", "c2"),
        ("a kite",),
        ("first", "two lines."),
        ("a kite",),
    ]
    assert coco.read_captions(files[0], files[1][:1], [1]) == [("first", "two lines.")]


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_missing_is_named(files):
    table, (train, val) = files
    for told, given, ids in (
        ("table.csv: no stimulus 3; take the table of all", [train, val], [0, 3]),
        ("1 stimuli are of val2017, and 0 files hold its captions", [train], [0, 1]),
        ("1 stimuli are of val2017, and 2 files hold its captions", [val, train, val], [0]),
    ):
        with pytest.raises(InputError, match=told):
            coco.read_captions(table, given, ids)
    changed(val, "a kite", " ")
    with pytest.raises(InputError, match="stimulus 0, photograph val2017 532481 of COCO, has no"):
        coco.read_captions(table, [train, val], [0])


def test_other_files_are_refused(files):
    table, (train, val) = files
    for damaged in ('{"annotations": [', '{"images": []}', '{"annotations": [3]}', "[]", "\xff"):
        val.write_text(damaged, encoding="latin-1")
        with pytest.raises(InputError, match=r"val2017.json: no captions of COCO \("):
            coco.read_captions(table, [train, val], [0])
    val.unlink()
    with pytest.raises(InputError, match="val2017.json: no such file"):
        coco.read_captions(table, [train, val], [0])
    changed(table, ",1\n", ",2\n")
    with pytest.raises(InputError, match="table.csv: two lines of stimulus 2"):
        coco.read_captions(table, [train, val], [2])
    for text in ("", "a,b\n1,2\n", TABLE.replace("532481", "x"), "\xff\xfe"):
        table.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match="table.csv: no table with columns nsdId, cocoId"):
            coco.read_captions(table, [train, val], [2])
    table.unlink()
    with pytest.raises(InputError, match="table.csv: no such file"):
        coco.read_captions(table, [train, val], [2])
