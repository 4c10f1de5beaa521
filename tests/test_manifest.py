"""Manifests as people write them: each read as it was meant, or refused with its line."""

import csv
import io
import re
import unicodedata

import pytest

from engram.errors import InputError
from engram.planning import manifest
from engram.planning.plan import Plan

HEADER = "subject,scan,file\n"
TABLE = HEADER + "s0,a,0.edf\ns1,a,1.edf\ns2,b,2.edf\n"
MEANT = list(csv.DictReader(io.StringIO(TABLE)))
NFC, NFD = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))


@pytest.fixture
def listed(tmp_path):
    """Reads a manifest of the given content: its rows, in the order of their units."""

    def read(content, name="list.csv", kind="eeg_recordings"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        mine = {"kind": kind, "manifest": name, "folder": str(tmp_path)}
        this = Plan({"datasets": {"mine": mine}})
        return [row for unit in this.units("mine") for row in this.rows("mine", unit)]

    return read


def named(rows):
    return [{key: row[key] for key in ("subject", "scan", "file")} for row in rows]


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        TABLE.replace(",", ";"),
        "sep=;\r\n" + TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\r"),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        b"\xfe\xff" + TABLE.replace(",", "\t").encode("utf-16-be"),
        TABLE.replace("\n", ",\n"),
        TABLE.replace("edf\n", "edf,,\n"),
        TABLE.replace("file\n", "file,,\n"),
        TABLE.replace("subject,", "subject,,").replace(",a,", ",,a,").replace(",b,", ",,b,"),
        TABLE.replace("subject,scan,file", "Subject,SCAN,File"),
        TABLE.replace(",", " , "),
        TABLE.replace("s1", '"s1"').replace("subject", '"subject"'),
        TABLE.replace("s1", "\u00a0s1 "),
        "\n \n" + TABLE.replace("\n", "\n\n,,\n"),
    ],
)
def test_a_table_is_read_as_it_was_meant(listed, content):
    assert named(listed(content)) == MEANT


@pytest.mark.parametrize(
    ("column", "kind"),
    [("eeg", "eeg_recordings"), ("fmri", "roi_series"), ("FMRI", "bold_images")],
)
def test_a_column_may_say_of_what_its_recordings_are(listed, column, kind):
    rows = listed(TABLE.replace("file", column), kind=kind)
    assert [row[column.lower()] for row in rows] == [row["file"] for row in MEANT]


@pytest.mark.parametrize("part", ["entry", "index"])
def test_one_file_may_hold_many_scans_of_which_each_is_listed_once(listed, part):
    table = f"subject,scan,fmri,{part}\ns0,a,all.h5,0\ns1,a,all.h5,1\n"
    assert len(listed(table, kind="roi_series")) == 2
    with pytest.raises(InputError, match="lines 3 and 4: the same file all.h5"):
        listed(table + "s2,a,all.h5,1\n", kind="roi_series")
    with pytest.raises(InputError, match="lines 2 and 3: the same file all.h5"):
        listed(table.replace("fmri", "file"))


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        (
            "fmri",
            "eeg_recordings",
            "column `fmri`, but datasets.mine reads `file` or `eeg`",
        ),
        ("eeg", "roi_series", "column `eeg`, but datasets.mine reads `file` or `fmri`"),
        ("eeg", "stimulus_epochs", "column `eeg`, but datasets.mine reads `file`; choose"),
        ("eeg,fmri", "roi_series", "line 1: columns `eeg` and `fmri` both name .*kind `paired`"),
        ("file", "paired", "column `file`, but datasets.mine reads `eeg` or `fmri`"),
        ("file,fmri", "roi_series", "line 1: columns `file` and `fmri` both name recordings"),
        ("table", "roi_series", "line 1: no column `file`; .*file .or eeg or fmri.*there is"),
    ],
)
def test_recordings_are_named_in_one_column_that_fits_the_dataset(listed, columns, kind, message):
    cells = ",".join(f"{column}.csv" for column in columns.split(","))
    with pytest.raises(InputError, match=message):
        listed(f"subject,scan,{columns}\ns0,a,{cells}\n", kind=kind)


def test_files_beside_a_scan_are_inputs_in_their_order(listed, tmp_path):
    table = "subject,scan,labels,confounds,fmri\ns0,a,l.csv,c.tsv,a.csv\ns1,a,,,b.csv\n"
    (row, _) = listed(table, kind="roi_series")
    assert manifest.files(row) == ["a.csv", "c.tsv", "l.csv"]
    with pytest.raises(InputError, match="line 2: confounds '~/c.tsv': `~` is no folder here"):
        listed(table.replace("c.tsv", "~/c.tsv"), kind="roi_series")


def test_decimal_commas_and_lines_within_quotes_stay_what_they_are(listed):
    semicolons = "subject;scan;file;age\ns0;a;0.edf;31,5\ns1;a;1.edf;40\n"
    assert [row["age"] for row in listed(semicolons)] == ["31,5", "40"]
    quoted = 'subject,scan,file,note\ns0,a,0.edf,"moved,\na lot"\ns1,a,"1, cut.edf",\n'
    rows = listed(quoted, "quoted.csv")
    assert [row["note"] for row in rows] == ["moved,\na lot", ""]
    assert rows[1]["file"] == "1, cut.edf"


def test_blanks_and_forms_of_letters_make_no_new_subject(listed):
    rows = listed(HEADER + f"s0,a,0.edf\ns0 ,b,1.edf\n{NFC},a,2.edf\n{NFD},b,3.edf\n")
    assert [row["unit"] for row in rows] == ["s0", "s0", NFC, NFC]


def test_a_file_is_called_as_on_the_disk(listed):
    """A disk tells the two forms of a letter apart."""
    assert [row["file"] for row in listed(HEADER + f"s0,a,{NFD}.edf\n")] == [f"{NFD}.edf"]


@pytest.mark.parametrize("subject", ["sub 01", "Jürgen", "张三", "मोहन", "01", "s.1", "x+y@(2)"])
def test_names_that_folders_can_have(listed, subject):
    assert [row["unit"] for row in listed(HEADER + f"{subject},a,0.edf\n")] == [subject]


@pytest.mark.parametrize(
    "subject",
    [
        *("site1/sub-01", "a\\b", "..", ".", ".s", "-s", "'s'", "{s}", "s:1", "s%", "s*", "s#1"),
        *("s.", "$HOME", "s\u200b", "s[1]", "s?", '"s,1"', '"s\n0"', "s" * 101, "é" * 51),
    ],
)
@pytest.mark.parametrize("column", ["subject", "unit"])
def test_names_that_break_paths_or_patterns_are_refused(listed, subject, column):
    values = {"subject": "s9", "unit": "u"} | {column: subject}
    line = "{subject},{unit},a,9.edf\n".format(**values)
    with pytest.raises(InputError, match=rf"list\.csv, line 3: {column} .*(use letters|shorten)"):
        listed("subject,unit,scan,file\ns0,,a,0.edf\n" + line)


S0 = "s0,a,0.edf\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the manifest is empty; its first line names the columns"),
        ("\n\n", "the manifest is empty"),
        (HEADER + ",,\n", "the manifest lists no recording"),
        (S0, "line 1: no column `subject`; .*there is s0, a, 0.edf"),
        ("subject,file\ns0,0.edf\n", "line 1: no column `scan`"),
        (TABLE.replace(",", "|"), "line 1: no column `subject`"),
        ("subject,scan,file,Scan\ns0,a,0.edf,a\n", "line 1: two columns `scan`"),
        (HEADER + "# mine\n" + S0, "line 2: 1 cells under a header of 3"),
        (HEADER + S0 + "s1,a,1.edf,x\n", "line 3: 4 cells under a header of 3"),
        (HEADER + S0 + "s1,a\n", "line 3: 2 cells under a header of 3"),
        ('subject,scan,file,n\ns0,a,0.edf,"a\nb"\ns1\n', "line 4: 1 cells under a header of 4"),
        (HEADER + S0 + 's1,"a,1.edf\ns2,a,2.edf\n', "line 3: .*; close every quote"),
        (HEADER + '"s"0,a,0.edf\n', "line 2: .*double one within quotes"),
        (HEADER + S0 + "s1,,1.edf\n", "line 3: no value for `scan`"),
        (",subject,scan,file\n0,s0,a,0.edf\n", "line 2: .*column without a name"),
        (HEADER.encode() + "Jürgen,a,0.edf\n".encode("cp1252"), "line 2: is not UTF-8; export it"),
        (TABLE.encode("utf-16-le"), "line 1: holds NUL bytes"),
        (HEADER + "s\0,a,0.edf\n", "line 2: holds NUL bytes"),
        (b"PK\x03\x04\x14\x00", "is a workbook and no text; export it from the spreadsheet"),
        (HEADER + S0 + "s0 ,a,1.edf\n", "lines 2 and 3: listed twice: subject s0, scan a"),
        (HEADER + S0 + S0, "lines 2 and 3: listed twice"),
        (HEADER + S0 + "S0,b,1.edf\n", "lines 2 and 3: subject 's0' and 'S0' differ in nothing"),
        (HEADER + S0 + "s０,b,1.edf\n", "lines 2 and 3: subject 's0' and 's０' differ in"),
        (HEADER + S0 + "s1,a,./0.edf\n", "lines 2 and 3: the same file 0.edf"),
        (HEADER + S0 + "s1,a,x/../0.edf\n", "lines 2 and 3: the same file 0.edf"),
        (HEADER + S0 + "s1,a,.//0.edf\n", "lines 2 and 3: the same file 0.edf"),
        (HEADER + f"s0,a,{NFC}.edf\ns1,a,{NFD}.edf\n", "lines 2 and 3: the same file"),
        (HEADER + "s0,a/b,0.edf\n", "line 2: scan 'a/b': leave out `/`"),
        (HEADER + "s0,a,~/0.edf\n", "line 2: file '~/0.edf': `~` is no folder here"),
        (HEADER + "s0,a,x\\0.edf\n", "line 2: file .*: write / between folders"),
        (HEADER + "s0,a,https://host/0.edf\n", "line 2: file .*: an address is no file"),
        (HEADER + "s0,a,{0}.edf\n", "line 2: file .*: .* braces .*; rename it"),
        (HEADER + "s0,a,./\n", "line 2: file './': that is the folder itself"),
        (HEADER + f"s0,a,{'x' * 256}\n", "line 2: file 'x*': a name of more than 255 bytes"),
        ("subject,scan,file,labels\ns0,a,0.edf,~/l.csv\n", "line 2: labels '~/l.csv': `~` is no"),
    ],
)
def test_a_manifest_that_says_no_clear_thing_is_refused(listed, content, message):
    with pytest.raises(InputError) as caught:
        listed(content)
    assert re.search(r"list\.csv(, |: )" + message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_manifest(tmp_path):
    (tmp_path / "list").mkdir()
    this = Plan({"datasets": {"mine": {"manifest": "list", "folder": str(tmp_path)}}})
    with pytest.raises(InputError, match=r"datasets\.mine\.manifest: no file list nor .*/list;"):
        this.units("mine")
