"""Label tables as people save them, and what they mean, written out by hand."""

import numpy as np
import pandas as pd
import pytest

from engram.errors import InputError
from engram.readers import label_tables

BLOCKS = [(0.0, 59.5, "closed"), (59.5, 60.25, "open")]
COMMA = "onset,duration,label\n0,59.5,closed\n59.5,60.25,open\n"
GERMAN = "onset;duration;label\r\n0,0;59,5;closed\r\n59,5;60,25;open\r\n"


def read(folder, content, encoding="utf-8"):
    content = content if isinstance(content, bytes) else content.encode(encoding)
    (folder / "labels.csv").write_bytes(content)
    return label_tables.read(folder / "labels.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        COMMA,
        COMMA.replace(",", "\t"),
        COMMA.replace(",", ";"),
        COMMA.replace("\n", "\r"),
        GERMAN,
        GERMAN.replace(";", "\t"),
        "sep=;\n" + GERMAN,
        COMMA.replace("\n", ",,\n"),
        "\n" + COMMA.replace("\n", "\n\n , ,\n"),
        " Onset , DURATION,Label\n 0 ,\t59.5, closed\n5.95e1,60.25 ,open \n",
        ",onset,duration,label\n0,0,59.5,closed\n1,59.5,60.25,open\n",
        'label,onset,duration\n"closed", 0,"59,5"\nopen,"59,5","60,25"\n',
        "trial_type\tresponse_time\tduration\tonset\nclosed\tn/a\t59.5\t0\nopen\t1\t60.25\t59.5\n",
        "onset,duration,Description\n0,59.5,closed\n59.5,60.25,open\n",
        "onset,duration,label,trial_type\n0,59.5,closed,a\n59.5,60.25,open,b\n",
    ],
)
def test_a_table_means_the_same_however_it_was_saved(tmp_path, text, encoding):
    assert read(tmp_path, text, encoding) == (None, BLOCKS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_a_label_keeps_its_letters_and_its_digits(tmp_path, encoding):
    labels = ["müde – „zu“", "01", "1", "1.0", "1e3", "None", "nan", "true", "a, b", 'say "no"']
    lines = [f'{i},1,"{one.replace(chr(34), chr(34) * 2)}"' for i, one in enumerate(labels)]
    _, events = read(tmp_path, "\n".join(["onset,duration,label", *lines]), encoding)
    assert [label for *_, label in events] == labels
    assert [onset for onset, *_ in events] == list(range(len(labels)))


def test_a_letter_is_the_same_composed_or_not(tmp_path):
    _, events = read(tmp_path, "onset,label\n0,mu\N{COMBINING DIAERESIS}de\n")
    assert events == [(0, 0, "müde")]


def test_a_blank_label_is_none_and_leaves_the_others_as_they_are(tmp_path):
    lines = "onset,duration,label\n0,60,1\n60,60,0\n120,60,\n180,60,n/a\n240,1,1"
    _, events = read(tmp_path, lines)
    assert events == [(0, 60, "1"), (60, 60, "0"), (240, 1, "1")]


@pytest.mark.parametrize("missing", ["", "n/a", "N/A", "0", " "])
def test_an_event_may_have_no_duration(tmp_path, missing):
    _, events = read(tmp_path, f"onset,duration,label\n1.5,{missing},a\n2,3,b\n")
    assert events == [(1.5, 0, "a"), (2, 3, "b")]
    assert read(tmp_path, "onset,label\n1.5,a\n")[1] == [(1.5, 0, "a")]


def test_what_pandas_writes_is_read(tmp_path):
    """Whole numbers beside a blank become 0.0 and 1.0 there."""
    windows = pd.DataFrame({"window": range(4), "label": [1, np.nan, 0, 2]})
    for index in (False, True):
        windows.to_csv(tmp_path / "a.csv", index=index)
        labels, events = label_tables.read(tmp_path / "a.csv")
        assert (labels.tolist(), events) == ([1, -1, 0, 2], [])


@pytest.mark.parametrize("missing", ["", "n/a", "NA", "NaN", "-1", "-1.0"])
def test_windows_are_told_by_their_numbers(tmp_path, missing):
    labels, _ = read(tmp_path, f"window;label\n2;1\n0;{missing}\n1;12\n")
    assert labels.tolist() == [-1, 12, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"labels\.csv: is empty"),
        ("\n , ,\n", "is empty"),
        ("onset,duration,label\n", "no line below"),
        ("onset,duration,label\n0,60,\n", "no line has a label"),
        ("0,60,closed\n60,60,open\n", r"line 1: columns 0, 60, closed; expected window and label"),
        ("onset,duration,state\n0,60,a\n", "line 1: columns onset, duration, state"),
        ("window,trial_type\n0,a\n", "line 1: columns window, trial_type"),
        ("onset,duration,label,Label\n0,60,a,b\n", "line 1: column 'label' stands there twice"),
        ("onset,onset ,label\n0,60,a\n", "line 1: column 'onset' stands there twice"),
        ("onset,duration,label\n0,60,a\n60,60,b,c\n", "line 3: 4 cells under 3 column names"),
        ("onset,duration,label,\n0,60,eyes,closed\n", "line 2: 4 cells under 3"),
        ('onset,duration,label\n0,60,a\n60,60,"b\n', "line 3: .*quote"),
        ("onset,duration,label\n,60,a\n", "line 2: onset '' is no number of seconds"),
        ("onset,duration,label\n0,60,a\n-1,60,a\n", "line 3: onset '-1' is negative"),
        ("onset,duration,label\n0,-60,a\n", "line 2: duration '-60' is negative"),
        ("onset,duration,label\n0,inf,a\n", "line 2: duration 'inf' is no number"),
        ("onset,duration,label\n0,1e999,a\n", "line 2: duration '1e999' is no number"),
        ("onset,duration,label\nnan,1,a\n", "line 2: onset 'nan' is no number"),
        ("onset,duration,label\n1_000,1,a\n", "line 2: onset '1_000' is no number"),
        ("onset,duration,label\n00:01:00,1,a\n", "line 2: onset '00:01:00' is no number"),
        ('onset,duration,label\n"1,500",60,a\n', "line 2: '1,500', but it may mean thousands"),
        ("onset\tduration\tlabel\n1,500\t60\ta\n", "line 2: '1,500', but it may mean thousands"),
        ("onset;duration;label\n0;1,5;a\n2.5;1;a\n", "line 2: '1,5', but line 3 has '2.5'"),
        ("onset;duration;label\n1.000,5;1;a\n", "line 2: '1.000,5'"),
        ("window,label\n0,1\n2,1\n", "line 3: window '2'; 2 windows .* each once"),
        ("window,label\n0,1\n0,1\n", "line 3: window '0'"),
        ("window,label\n0.5,1\n", "line 2: window '0.5'"),
        ("window,label\n0,awake\n", "line 2: 'awake'; a label is the number of its class"),
        ("window,label\n0,0.5\n", "line 2: '0.5'; a label is the number of its class"),
        ("window,label\n0,-2\n", "line 2: '-2'; a label is the number of its class"),
        (b"PK\x03\x04\x14\x00\x06\x00workbook", "no text in UTF-8.*not as a workbook"),
        (b"onset,label\n0,\x81\n", "no text in UTF-8, UTF-16 or Windows-1252"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path, content)
    assert str(raised.value).startswith(str(tmp_path / "labels.csv"))
    assert "\n" not in str(raised.value)


def test_three_decimals_after_a_comma_are_decimals_where_semicolons_separate(tmp_path):
    _, events = read(tmp_path, "onset;duration;label\n12,345;1,250;a\n")
    assert events == [(12.345, 1.25, "a")]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: No such file"):
        label_tables.read(tmp_path / "none.csv")
