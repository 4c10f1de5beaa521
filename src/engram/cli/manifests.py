"""`engram manifest bids`: the manifest of a BIDS folder, of its EEG, its fMRI, or both; `engram
manifest files`: that of files whose names follow patterns.

EEG is found by mne-bids, raw or as MNE-BIDS-Pipeline cleaned it; what fMRIPrep and its like derive,
BOLD images with their confounds or tables of region series, by nilearn.  Files of one subject,
session, task and run are one scan.

Gorgolewski, K. J. et al. (2016). The brain imaging data structure. Scientific Data 3:160044.
"""

import csv
import io
import re
import sys
from pathlib import Path
from typing import NamedTuple

from nilearn.interfaces.bids import get_bids_files, parse_bids_filename

from engram import store, tables
from engram.errors import InputError
from engram.planning import manifest
from engram.sources import read_lock

EEG = (".vhdr", ".edf", ".bdf", ".set", ".fif")  # endings of the files that name a recording
ENTITIES = {"ses": "session", "task": "task", "acq": "acq", "run": "run"}
CLEAN = "clean"  # what MNE-BIDS-Pipeline calls a recording that went through all its steps
SHOWN = 20  # files that are left out, by name


class Found(NamedTuple):
    """What there is.

    Attributes:
        files: path by (subject, session, task, acq, run), by column of the manifest.
        left_out: reason by path.
        said: what else has to be known.
    """

    files: dict[str, dict[tuple, Path]]
    left_out: dict[Path, str]
    said: list[str]


def bids(folder, output=None, derivatives=None, space=None, match=None, fmri=None, force=False):
    """Write the manifest of a BIDS folder, or print it, and say what is in it and what is not.

    Args:
        folder: a raw BIDS folder, or one of derivatives.
        output: path of the manifest; None prints its lines.
        derivatives: folder of what was derived from the fMRI; None looks in `folder` itself and in
            the folders of its `derivatives`.
        space: of the BOLD images or tables, where there are several, e.g. MNI152NLin2009cAsym.
        match: what the names of the fMRI files hold, where there are several of a scan, e.g.
            seg-Schaefer400.
        fmri: "bold" or "timeseries", where there are both.
        force: overwrite `output`.

    Raises:
        InputError: it is no BIDS folder, holds nothing that can be read, or says a scan twice; the
            output is there.
    """
    folder = Path(folder)
    _check_output(output, force)
    if not folder.is_dir() or not any(folder.glob("sub-*")):
        raise InputError(
            f"{folder}: no BIDS folder, for there is no folder sub-* in it; name the one that "
            "holds them"
        )
    found = Found({"eeg": {}, "fmri": {}}, {}, [])
    _find_eeg(folder, found)
    for place in _derived(folder, derivatives):
        _find_fmri(place, space, match, fmri, found)
    people, facts = _participants(folder, found)
    lines = _lines(folder, found, people, facts)
    if not lines:
        left = next(iter(found.left_out.items()), None)
        more = f"; left out is {left[0].name}: {left[1]}" if left else ""
        raise InputError(
            f"{folder}: neither raw EEG (sub-*/eeg) nor derived fMRI (derivatives/*/sub-*/func) is "
            f"there{more}"
        )
    _write(output, lines, facts)
    _say(folder, output, lines, facts, found)


def files(folder, patterns, output=None, force=False):
    """Write the manifest of files whose names follow patterns, or print it.

    Args:
        folder: that holds them, or the lock file of a published data set, which lists them.
        patterns: by column of the manifest, e.g. {"eeg": "EEG/{subject}-{scan}.set"}; without
            {scan} a subject has one.
        output, force: as for `bids`.

    Raises:
        InputError: a pattern has no {subject} or fits no file; the output is there.
    """
    folder = Path(folder)
    _check_output(output, force)
    if folder.is_dir():
        paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    elif folder.is_file():
        paths = [file.path for file in read_lock(folder)]
    else:
        raise InputError(f"{folder}: no such folder, nor a lock file")
    found = {}
    for column, pattern in patterns.items():
        fits = [match for path in paths if (match := _regex(pattern).fullmatch(path))]
        if not fits:
            raise InputError(f"{folder}: no file is called {pattern}; correct --{column}")
        for match in fits:
            key = match["subject"], match.groupdict().get("scan") or "scan-01"
            found.setdefault(key, dict.fromkeys(patterns, ""))[column] = match[0]
    lines = [{"subject": key[0], "scan": key[1], **found[key]} for key in sorted(found)]
    _write(output, lines, [])
    whole = sum(all(line.values()) for line in lines)
    subjects = {line["subject"] for line in lines}
    print(
        f"{folder}: {len(subjects)} subjects, {len(lines)} scans, {whole} of them with "
        f"{' and '.join(patterns)}; left out: {len(paths) - _count(lines, patterns)} files",
        file=sys.stderr,
    )


def _count(lines, columns):
    return sum(bool(line[column]) for line in lines for column in columns)


def _regex(pattern):
    if "{subject}" not in pattern:
        raise InputError(f"{pattern}: has no {{subject}}; put it where names of subjects stand")
    parts = re.split(r"\{(subject|scan)\}", pattern)
    named = [
        f"(?P<{part}>[^/]+?)"
        if i % 2 and part not in parts[:i]
        else f"(?P={part})"
        if i % 2
        else re.escape(part)
        for i, part in enumerate(parts)
    ]
    return re.compile("".join(named))


def _check_output(output, force):
    if output and Path(output).exists() and not force:
        raise InputError(f"{output}: is there already; name another, or overwrite it with --force")


def _write(output, lines, facts):
    """The lines into a file, or on the screen."""
    text = _table(lines, facts)
    if output:
        with store.replaced(Path(output)) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


# ---- what there is --------------------------------------------------------------------


def _find_eeg(folder, found):
    try:
        from mne_bids import find_matching_paths
    except ImportError:
        raise InputError(
            "mne-bids, which knows BIDS, is not installed; pip install -e '.[bids]' in the "
            "checkout of Engram"
        ) from None
    for one in find_matching_paths(folder, ignore_json=True, ignore_nosub=True):
        path = Path(one.fpath)
        if one.datatype in ("meg", "ieeg", "nirs") and one.suffix == one.datatype:
            found.left_out[path] = f"{one.datatype}, which is not read from BIDS"
        suffixes = ("eeg", "raw")  # the latter of MNE-BIDS-Pipeline
        if one.datatype != "eeg" or one.suffix not in suffixes or path.suffix.lower() not in EEG:
            continue
        if one.suffix == "raw" and one.processing != CLEAN:
            found.left_out[path] = f"not cleaned (proc-{CLEAN})"
            continue
        if one.split not in (None, "01", "1"):
            found.left_out[path] = "a further part of a split file, read with the first"
            continue
        entities = {"sub": one.subject, "ses": one.session, "task": one.task,
                    "acq": one.acquisition, "run": one.run}  # fmt: skip
        _add(found, "eeg", entities, path)


def _derived(folder, derivatives):
    if derivatives:
        if not any(Path(derivatives).glob("sub-*")):
            raise InputError(f"{derivatives}: no folder sub-* in it; name the one that holds them")
        return [Path(derivatives)]
    inside = folder / "derivatives"
    places = [folder, inside, *(sorted(inside.iterdir()) if inside.is_dir() else [])]
    return [place for place in places if place.is_dir() and any(place.glob("sub-*"))]


def _find_fmri(folder, space, match, fmri, found):
    """Derived BOLD images or tables of region series."""
    how = {"main_path": str(folder), "modality_folder": "func"}
    bold = get_bids_files(**how, file_tag="bold", file_type="nii.gz")
    bold += get_bids_files(**how, file_tag="bold", file_type="nii")
    series = [
        path
        for path in get_bids_files(**how, file_tag="timeseries", file_type="tsv")
        if parse_bids_filename(path)["entities"].get("desc") != "confounds"
    ]
    _note_beside(folder, found)
    bold, series = (
        [path for path in paths if _called(path, match, found)] for paths in (bold, series)
    )
    derived = [path for path in bold if "desc" in parse_bids_filename(path)["entities"]]
    for path in set(bold) - set(derived):
        found.left_out[Path(path)] = "raw BOLD; preprocess it, e.g. with fMRIPrep"
    if derived and series and not fmri:
        raise InputError(
            f"{folder}: has BOLD images, {Path(derived[0]).name}, and tables of regions, "
            f"{Path(series[0]).name}; choose with --fmri bold or --fmri timeseries"
        )
    chosen = {"bold": derived, "timeseries": series}.get(fmri, derived or series)
    spaces = {_space(path): path for path in chosen}
    if len(spaces) > 1 and space is None:
        raise InputError(
            f"{folder}: the fMRI lies in several spaces, {', '.join(sorted(map(str, spaces)))}; "
            "choose one with --space"
        )
    for path in map(Path, chosen):
        if space is not None and _space(path) != space:
            found.left_out[path] = f"in space {_space(path)}"
            continue
        _add(found, "fmri", parse_bids_filename(str(path))["entities"], path)


def _called(path, match, found):
    if match and match not in Path(path).name:
        found.left_out[Path(path)] = f"has no {match} in its name"
        return False
    return True


def _note_beside(folder, found):
    """Files of subjects without sessions: nilearn does not look for them where others have some."""
    names = ("*_bold.nii", "*_bold.nii.gz", "*_timeseries.tsv")
    for path in (path for name in names for path in sorted(folder.glob(f"sub-*/func/{name}"))):
        if any(folder.glob("sub-*/ses-*")) and "desc-confounds" not in path.name:
            found.left_out[path] = "belongs to no session, while other subjects have sessions"


def _space(path):
    return parse_bids_filename(str(path))["entities"].get("space", "native")


def _add(found, column, entities, path):
    """Note a file under its scan; run 1 and run 01 are one."""
    run = entities.get("run")
    key = (entities["sub"], entities.get("ses"), entities.get("task"), entities.get("acq"),
           str(int(run)) if run and run.isdigit() else run)  # fmt: skip
    other = found.files[column].setdefault(key, path)
    if other != path:
        raise InputError(
            f"{other} and {path}: two files of one scan; choose with --match what the name of the "
            "one holds, or the folder of one kind of derivatives with --derivatives"
        )


def _participants(folder, found):
    """({subject: its line}, columns) of participants.tsv."""
    places = [place / "participants.tsv" for place in (folder, folder.parent, folder.parent.parent)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        found.said.append("no participants.tsv: nothing is known of the subjects")
        return {}, []
    table = tables.read(path)
    if "participant_id" not in table.columns:
        raise InputError(f"{path}: no column participant_id; there is {', '.join(table.columns)}")
    people = {}
    for line, row in table.rows:
        name = row["participant_id"].removeprefix("sub-")
        if name in people:
            raise InputError(f"{path}, line {line}: participant {name} stands there twice")
        people[name] = row
    facts = [name for name in table.columns if name != "participant_id"]
    for name in [one for one in facts if one.lower() in (*manifest.MEANT, *ENTITIES.values())]:
        facts.remove(name)
        found.said.append(f"column {name!r} of {path.name} means something else here: left out")
    return people, facts


# ---- the manifest ---------------------------------------------------------------------


def _lines(folder, found, people, facts):
    """A dict a scan, in order."""
    keys = _without_acq(found.files)
    of = {
        column: {keys[key]: path for key, path in found.files[column].items()}
        for column in found.files
    }
    lines, unknown = [], []
    for key in sorted({*of["eeg"], *of["fmri"]}, key=lambda key: [str(part or "") for part in key]):
        subject, *parts = key
        named = zip(ENTITIES, parts, strict=True)
        scan = "_".join(f"{entity}-{value}" for entity, value in named if value) or "scan-01"
        eeg, fmri = of["eeg"].get(key), of["fmri"].get(key)
        if subject not in people and people and subject not in unknown:
            unknown.append(subject)
        lines.append(
            {
                "subject": f"sub-{subject}",
                "scan": scan,
                "eeg": _said(folder, eeg),
                "fmri": _said(folder, fmri),
                "confounds": _said(folder, _confounds(fmri)),
                "labels": "" if eeg else _said(folder, _events(folder, key, fmri)),
                **dict(zip(ENTITIES.values(), (part or "" for part in parts), strict=True)),
                **{name: people.get(subject, {}).get(name, "n/a") or "n/a" for name in facts},
            }
        )
    if unknown:
        found.said.append(
            "not in participants.tsv, so that nothing is known of them: "
            + ", ".join(f"sub-{name}" for name in unknown)
        )
    return lines


def _without_acq(files):
    """Keys without `acq` where that leaves every file its own: EEG and fMRI seldom share it."""
    every = {key for of in files.values() for key in of}
    short = {key: (*key[:3], None, key[4]) for key in every}
    once = all(len({short[key] for key in of}) == len(of) for of in files.values())
    return short if once else {key: key for key in every}


def _confounds(path):
    """The table of confounds beside a derived BOLD image, if there is one."""
    if path is None or not path.name.endswith((".nii", ".nii.gz")):
        return None
    stem = re.sub(r"_(space|res|desc|den|echo)-[^_]+", "", path.name.partition("_bold.")[0])
    tables_beside = sorted(path.parent.glob(f"{stem}_desc-confounds_*.tsv"))
    return tables_beside[0] if tables_beside else None


def _events(folder, key, fmri):
    """The table of events of a scan without EEG, if it names them; readers find that of an EEG."""
    subject, session, *_ = key
    raw = folder / f"sub-{subject}" / (f"ses-{session}" if session else "") / "func"
    stem = re.sub(r"_(space|res|desc|den|seg|atlas|stat|cohort)-[^_]+", "", fmri.name)
    path = raw / f"{stem.rpartition('_')[0]}_events.tsv"
    return path if path.is_file() and "trial_type" in tables.read(path).columns else None


def _said(folder, path):
    if path is None:
        return ""
    inside = path.is_relative_to(folder)
    return (path.relative_to(folder) if inside else path.resolve()).as_posix()


def _table(lines, facts):
    """Text of the manifest, without columns that are empty in every line."""
    columns = [name for name in lines[0] if name in facts or any(line[name] for line in lines)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _say(folder, output, lines, facts, found):
    """What is in the manifest, what is not, and what to write into a study."""
    subjects = {line["subject"] for line in lines}
    sessions = {(line["subject"], line["session"]) for line in lines}
    of = {"EEG and fMRI": 0, "EEG alone": 0, "fMRI alone": 0}
    for line in lines:
        of[("EEG and fMRI" if line["fmri"] else "EEG alone") if line["eeg"] else "fMRI alone"] += 1
    told = [
        f"{folder}: {len(subjects)} subjects, {len(sessions)} sessions, {len(lines)} scans: "
        + ", ".join(f"{count} of {what}" for what, count in of.items() if count),
        f"facts of participants.tsv: {', '.join(facts) or 'none'}",
        *found.said,
        f"left out: {len(found.left_out)} files",
        *(f"  {path.name}: {why}" for path, why in list(found.left_out.items())[:SHOWN]),
    ]
    more = len(found.left_out) - SHOWN
    told += [f"  and {more} more"] if more > 0 else []
    bold = any(line["fmri"].endswith((".nii", ".nii.gz")) for line in lines)
    fmri = "bold_images" if bold else "roi_series"
    kind = "paired" if of["EEG and fMRI"] or (of["EEG alone"] and of["fMRI alone"]) else None
    kind = kind or ("eeg_recordings" if of["EEG alone"] else fmri)
    told.append(
        f"in a study: kind: {kind}, folder: {folder}, manifest: {output or 'manifest.csv'}"
        + (f", fmri: {{kind: {fmri}}}" if kind == "paired" else "")
    )
    print("\n".join(told), file=sys.stderr)
