"""The raw files of datasets: which there are, where they lie, what has to be there first.

Standard library only, like `engram.planning.plan`.
"""

import difflib
import re
from pathlib import Path

from engram.errors import InputError
from engram.planning import components, manifest, provenance
from engram.planning.companions import FOLDERS, companions
from engram.planning.kept import kept

#: What the name of a file ends in that an option may name where it may name an atlas too.
NAMED = (*components.constant("engram.readers.region_names", "SUFFIXES"), ".nii", ".nii.gz")


class RawFiles:
    """The part of a plan that knows the datasets of its `config`."""

    @kept
    def units(self, dataset) -> list[str]:
        """Names of the units of a dataset: what one store holds, e.g. a subject."""
        this = self.config["datasets"][dataset]
        if "units" in this:
            return [str(unit) for unit in this["units"]]
        return list(self._manifest(dataset))

    def shared(self, dataset) -> list[str]:
        """Names of the units that hold what all others share, e.g. the stimuli."""
        return list(self.config["datasets"][dataset].get("shared", {}))

    def rows(self, dataset, unit) -> list[dict]:
        """The raw files of a unit: for each its `file` and what is known about it.

        Raises:
            InputError: the manifest does not list the unit.
        """
        this = self.config["datasets"][dataset]
        if unit in this.get("shared", {}):
            return [{"unit": unit, "file": file} for file in this["shared"][unit]]
        if "manifest" in this:
            return self._listed(dataset, unit)
        return [row for pattern in this["files"] for row in _expand(pattern, unit, this)]

    def _listed(self, dataset, unit):
        listed = self._manifest(dataset)
        if unit not in listed:
            raise InputError(
                f"datasets.{dataset}: no unit {unit!r} in the manifest, which lists "
                f"{', '.join(list(listed)[:5])}{', ...' * (len(listed) > 5)}"
            )
        return listed[unit]

    @kept
    def _manifest(self, dataset):
        """The lines of a manifest, by unit."""
        named = self.config["datasets"][dataset]["manifest"]
        checkout = provenance.ROOT.parents[1]  # a study of it may run in another folder
        places = (Path(named), self._folder(dataset) / named, checkout / named)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise InputError(
                f"datasets.{dataset}.manifest: no file {places[0]} nor {places[1]}; correct its "
                "name, or put it there"
            )
        kind = f"engram.datasets.{self.config['datasets'][dataset]['kind']}"
        parts = components.constant(kind, "PARTS") or ()
        try:
            listed = manifest.read(path, path.stat().st_mtime_ns, parts)
        except OSError as error:
            raise InputError(f"datasets.{dataset}.manifest: {path}: {error.strerror}") from None
        _check_column(path, listed, components.constant(kind, "READS") or ("file",), dataset)
        if taken := [unit for unit in self.shared(dataset) if unit in listed]:
            raise InputError(f"datasets.{dataset}.shared: {taken[0]!r} is a unit of {path} already")
        if "folder" not in self.config["datasets"][dataset]:
            _check_within(path, listed)
        return listed

    def _folder(self, dataset, file=None):
        """Where raw files lie: in the dataset's folder, or where they are put or downloaded."""
        this = self.config["datasets"][dataset]
        shelf = "by_hand" if file in this.get("by_hand", []) else "raw"
        return Path(this.get("folder") or f"resources/{shelf}/{dataset}")

    def raw(self, dataset, unit) -> list[str]:
        """Paths of the raw files of a unit: what `rows` name, each in the order of its `files`.

        Behind them come the companions of the recordings that are here, such as the data and
        the markers of a BrainVision header, or the tables in a folder that is a scan.

        Raises:
            InputError: a file is missing that is not fetched.
        """
        paths, beside = [], []
        for row in self.rows(dataset, unit):
            own, more = self.raw_of(dataset, row)
            paths += own
            beside += more
        return paths + [path for path in dict.fromkeys(beside) if path not in paths]

    def raw_of(self, dataset, row) -> tuple[list[str], list[str]]:
        """Paths of the raw files that one row of a unit names, and of their companions.

        Raises:
            InputError: a file is missing that is not fetched.
        """
        this = self.config["datasets"][dataset]
        if "folder" not in this:
            self.check_terms(dataset)
        inside = self._inside(this)
        paths, beside = [], []
        for file in manifest.files(row):
            path = self._folder(dataset, file) / file
            local = "folder" in this or file in this.get("by_hand", [])
            folder = local and path.is_dir() and path.suffix.lower() not in FOLDERS
            tables = [path / table for table in inside] if folder else []
            gone = next((one for one in (path, *tables) if local and not one.exists()), None)
            if gone:
                raise InputError(
                    f"datasets.{dataset}: {gone} is missing{_similar(gone)}; put the data "
                    f"there, or set datasets.{dataset}.folder to where it lies"
                )
            paths.append(str(path))
            beside += map(str, [*tables, *companions(path)] if local else [])
        return paths, beside

    def _inside(self, dataset):
        """Files that are a scan where its file is a folder."""
        found = []
        for part in components.parts("datasets", dataset):
            option = components.constant(f"engram.datasets.{part['kind']}", "INSIDE")
            found += part.get(option) or []
        return found

    def beside(self, dataset, view) -> list[str]:
        """Files of the user that options of a dataset and of a view name: atlases, their regions.

        Raises:
            InputError: one is missing.
        """
        return [*self.named_files("datasets", dataset), *self.named_files("views", view)]

    @kept
    def named_files(self, family, name) -> list[str]:
        """Files that options of a dataset, a view or a backbone name, those that its kind lists.

        Raises:
            InputError: one is missing that no job writes.
        """
        this = self.backbone(name) if family == "backbones" else self.config[family][name]
        named = [
            (option, one)
            for part in components.parts(family, this)
            for option in components.constant(f"engram.{family}.{part['kind']}", "FILES") or ()
            for one in _named(part.get(option))
        ]
        for option, one in named:
            if not (one.startswith("results/") or Path(one).is_file()):
                raise InputError(
                    f"{family}.{name}.{option}: no file {one}{_similar(Path(one))}; correct "
                    "its name, from where the workflow runs, or put it there"
                )
        return [one for _, one in named]

    def check_terms(self, dataset):
        """Refuse to fetch data under an agreement that was not accepted."""
        this = self.config["datasets"][dataset]
        if this.get("terms") and not this.get("terms_accepted"):
            raise InputError(
                f"datasets.{dataset}: its data is under an agreement: {this['terms']}; accept it "
                f"there, then set datasets.{dataset}.terms_accepted: true, or set "
                f"datasets.{dataset}.folder to a copy that you already have, and its source to null"
            )

    def lock(self, shelf, name) -> str:
        """The lock file: what the publisher of a dataset has, or what all weights were."""
        return f"config/locks/{name if shelf == 'raw' else 'weights'}.csv"

    def listed(self, shelf, name) -> list[str]:
        """The lock file that has to be there before a file is downloaded, if any."""
        published = shelf == "raw" and self.config["datasets"][name].get("source")
        return [self.lock(shelf, name)] if published else []

    def connections(self, shelf, name) -> int:
        """Connections to a publisher that a download makes: none if its file is simulated."""
        return 0 if shelf == "raw" and not self.config["datasets"][name].get("source") else 1

    @kept
    def rows_by_file(self, dataset):
        """The first row that names each raw file of a dataset."""
        found = {}
        for unit in (*self.shared(dataset), *self.units(dataset)):
            for row in self.rows(dataset, unit):
                for file in manifest.files(row):
                    found.setdefault(file, row)
        return found


# ---- small ----------------------------------------------------------------------------


def _named(value):
    """The files among what an option names: its one value, or those of many that look like one."""
    if isinstance(value, str):
        return [value] if value else []
    values = value.values() if isinstance(value, dict) else value or []
    return [one for one in values if one.lower().endswith(NAMED)]


def _check_column(path, listed, columns, dataset):
    """Refuse recordings of another kind than a dataset reads."""
    row = next(iter(listed.values()))[0]
    named = [column for column in manifest.RECORDINGS if column in row]
    if len(named) > 1 and "file" in columns:
        raise InputError(
            f"{path}, line 1: columns `{'` and `'.join(named)}` both name recordings, and "
            f"datasets.{dataset} reads one of them; choose the kind `paired` for both, or leave "
            "one column out"
        )
    if other := next((column for column in named if column not in columns), None):
        raise InputError(
            f"{path}: names recordings in the column `{other}`, but datasets.{dataset} reads "
            f"`{'` or `'.join(columns)}`; choose another `kind` for it, or rename the column"
        )


def _check_within(path, listed):
    """Refuse files outside of the folder into which those of a manifest are fetched."""
    for row in (row for rows in listed.values() for row in rows):
        for file in manifest.files(row):
            if file[0] == "/" or ".." in file.split("/"):
                raise InputError(
                    f"{path}: {file!r} lies outside of what is fetched; name it as the publisher "
                    "does, or say with `folder` where the files of the dataset lie"
                )


def _similar(path):
    """The file beside `path` whose name is closest, in brackets: an apostrophe, a capital."""
    there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.9)
    return f" (there is {close[0]!r})" if close else ""


def _expand(pattern, unit, dataset):
    """The rows of one file pattern: {unit} filled in, and any {name} whose list `names` holds."""
    names = re.findall(r"{(\w+)}", pattern)
    rows = [{"unit": unit}]
    for name in dict.fromkeys(names):
        if name != "unit":
            rows = [{**row, name: value} for row in rows for value in dataset[name]]
    return [{**row, "file": pattern.format(**row)} for row in rows]
