"""A published dataset as a user fetches it: the workflow against a server that speaks OSF."""

import contextlib
import io
import os
import zipfile

import checkouts
import numpy as np
import pytest
import yaml
from PIL import Image
from server import Osf, Server, sums

from engram import store
from engram.sources import read_lock

STUDY = yaml.safe_load((checkouts.ROOT / "config/studies/vigilance.yaml").read_text())
OSF = STUDY["datasets"]["osf"]
REGIONS = ["Thalamus", "Calcarine cortex posterior"]  # of 64

HEIGHT, WIDTH, WINDOWS = 570, 2070, 45  # 690 units of time, windows of 30 every 15
LABELS = "vigall_out/sub01-scan01_vigall.npy"
EEG = "eeg_spectrograms/sub01-scan01_eeg_spectrogram.png"
FMRI = "fmri_spectrograms/sub01-scan01_Thalamus_fmri_spectrogram.png"
RAW = "resources/raw/osf"


# ---- what is published ---------------------------------------------------------------------


def labels(seed):
    """One label a window, in runs of five; both classes occur. Shape (windows, 1)."""
    return np.repeat((np.arange(WINDOWS // 5) + seed) % 2, 5).astype(np.int64)[:, None]


def picture(seed, truth):
    """A PNG file of few colours, a little brighter where the scan is alert."""
    coarse = np.random.default_rng(seed).integers(0, 4, (HEIGHT // 30, WINDOWS + 1)) * 40
    coarse = coarse + 24 * np.append(truth[:, 0], truth[-1, 0])
    plane = coarse.astype(np.uint8).repeat(30, 0).repeat(WIDTH // (WINDOWS + 1), 1)
    file = io.BytesIO()
    Image.fromarray(np.stack([plane, plane, 255 - plane], axis=-1)).save(file, "PNG")
    return file.getvalue()


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def scan(number, unit):
    """The files of one scan, by path."""
    truth = labels(number)
    files = {f"eeg_spectrograms/{unit}_eeg_spectrogram.png": picture([number, 0], truth)}
    for region, name in enumerate(REGIONS, start=1):
        path = f"fmri_spectrograms/{unit}_{name}_fmri_spectrogram.png"
        files[path] = picture([number, region], truth)
    return files | {f"vigall_out/{unit}_vigall.npy": array(truth)}


@pytest.fixture(scope="session")
def scans():
    """The files of all scans, by path."""
    each = [scan(number, unit) for number, unit in enumerate(OSF["units"])]
    return {path: data for files in each for path, data in files.items()}


def tree(files):
    """Folders within folders, as a project shows them."""
    root = {}
    for path, content in files.items():
        *folders, name = path.split("/")
        folder = root
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[name] = content
    return root


class Published:
    """The project hxaz4 on two servers, and a checkout that fetches it.

    Attributes:
        folder: the checkout.
        api, storage: the servers.
        blobs: path of a file -> its name on the storage host.
    """

    def __init__(self, folder, api, storage):
        self.folder, self.api, self.storage, self.blobs = folder, api, storage, {}
        checkouts.copy(folder)
        self.configure()

    def publish(self, files):
        """Publish files: path -> bytes, or (bytes, hashes that the OSF claims)."""
        project = Osf(self.api, self.storage, page_size=100)
        project.node("hxaz4", tree({f"SampleData/{path}": files[path] for path in files}))
        self.blobs = {}
        for name, data in self.storage.files.items():
            for path, content in files.items():
                if data == (content[0] if isinstance(content, tuple) else content):
                    self.blobs[path] = name

    def configure(self, study=None, **dataset):
        """Lay a study over that of the repository; the dataset with these keys."""
        source = {"osf": "hxaz4", "base": f"{self.api.url}/v2"}
        dataset = {"source": source, "units": OSF["units"][:1], "regions": REGIONS} | dataset
        study = (study or {}) | {"datasets": {"osf": dataset}}
        (self.folder / "overlay.yaml").write_text(yaml.safe_dump(study))

    def environment(self, **variables):
        """Of this process, without what would lead around loopback or to a person's project."""
        left_out = ("http_proxy", "https_proxy", "all_proxy", "osf_token", "engram_offline")
        kept = {key: os.environ[key] for key in os.environ if key.lower() not in left_out}
        return kept | {"PYTHONPATH": str(self.folder / "src")} | variables

    def run(self, *arguments, check=True, **variables):
        """Run Snakemake in the checkout; return what it printed."""
        studies = ("config/studies/vigilance.yaml", "overlay.yaml")
        given = ("--configfile", *studies, "--cores", "2", *arguments)
        environment = self.environment(**variables)
        done = checkouts.snakemake(self.folder, *given, environment=environment)
        assert not check or done.returncode == 0, done.stdout
        assert check or done.returncode != 0, done.stdout
        return done.stdout

    def asked(self):
        """How many requests there were so far."""
        return len(self.api.requests) + len(self.storage.requests)

    def fetched(self, path):
        """The headers of the requests that reached the storage host for a file."""
        return self.storage.asked(f"/data/{self.blobs[path]}")

    def raw(self):
        """The files of the dataset that are there, by path; hidden and partial ones too."""
        root = self.folder / RAW
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }

    def lock(self):
        """What the lock file says, by path below the top folder."""
        files = read_lock(self.folder / "config/locks/osf.csv")
        return {file.path.removeprefix("SampleData/"): file for file in files}

    def recorded(self):
        """Size and checksums of first downloads, by path below the top folder."""
        files = read_lock(self.folder / "config/locks/osf.recorded.csv")
        return {file.path.removeprefix("SampleData/"): file for file in files}

    def mistake(self, path):
        """The one line that says what is wrong in the log of a download."""
        log = (self.folder / f"results/logs/download/raw/osf/{path}.log").read_text()
        assert "Traceback" not in log
        (line,) = [line for line in log.splitlines() if "error" in line.lower()]
        return line


@pytest.fixture(scope="session")
def servers():
    """Starts servers that live as long as the session."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(Server())


@pytest.fixture
def project(tmp_path, servers):
    """A fresh checkout of the study of one scan, with nothing published yet."""
    (tmp_path / "checkout").mkdir()
    return Published(tmp_path / "checkout", servers(), servers())


# ---- from the listing to the report ----------------------------------------------------------

UNITS = ["sub01-scan01", "sub02-scan02", "sub11-scan01"]
SMALL = {
    "run": ["fmri_pixels"],
    "maps": [],
    "compare": [],
    "views": {"fmri_picture": {"regions": REGIONS}},
    "experiments": {"fmri_pixels": {"seeds": 1}},
    "evaluation": {"permutations": 200},
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory, servers, scans):
    """A checkout whose study has run from the listing of hxaz4 to the report."""
    project = Published(tmp_path_factory.mktemp("published"), servers(), servers())
    project.publish(scans)
    project.configure(SMALL, units=UNITS)
    project.run("--set-threads", "extract=1", "train=1")  # two jobs at a time
    return project


def test_the_study_ends_in_a_report_that_names_the_data(finished):
    page = (finished.folder / "results/overlay/report.html").read_text()
    assert STUDY["title"] in page
    assert OSF["title"] in page
    assert STUDY["experiments"]["fmri_pixels"]["title"] in page
    assert "simulated" not in page.lower()


def test_the_lock_file_lists_every_published_file_with_its_checksums(finished, scans):
    lock = finished.lock()
    assert set(lock) == set(scans)
    for path, data in scans.items():
        assert lock[path].checksums == sums(data)
        assert lock[path].size == len(data)


def test_the_files_of_the_study_are_there_and_no_others(finished, scans):
    wanted = {path: data for path, data in scans.items() if any(unit in path for unit in UNITS)}
    assert finished.raw() == wanted
    assert len(finished.storage.requests) == len(wanted)


def test_views_show_the_published_pixels_and_labels(finished, scans):
    for number, unit in enumerate(OSF["units"]):
        if unit in UNITS:
            state = store.open(finished.folder / f"results/views/osf/{unit}/published_state.h5")
            assert state[:].tolist() == labels(number)[:, 0].tolist()
    seen = store.open(finished.folder / "results/views/osf/sub01-scan01/fmri_picture.h5")
    assert np.array_equal(seen[7][0], pixels(scans[FMRI])[:, 7 * 45 : 7 * 45 + 90])


def test_a_second_run_has_nothing_to_do_and_asks_nobody(finished):
    before = finished.asked()
    assert "Nothing to be done" in finished.run()
    assert finished.asked() == before


# ---- what can go wrong -------------------------------------------------------------------------


def few(scans):
    """The files of the first scan."""
    return {path: scans[path] for path in scans if OSF["units"][0] in path}


def test_many_cores_open_two_connections(project):
    noise = {f"x{number}": np.random.default_rng(number).bytes(400_000) for number in range(4)}
    project.publish(noise)
    project.storage.faults = dict.fromkeys(project.storage.files, "slow 1000")
    project.configure(files=list(noise))
    project.run("--cores", "16", *(f"{RAW}/{path}" for path in noise))
    assert project.raw() == noise
    assert project.storage.together == 2


def test_offline_nobody_is_asked_and_the_missing_file_is_named(project, scans):
    project.publish(few(scans))
    target = f"{RAW}/{LABELS}"
    text = project.run(target, check=False, ENGRAM_OFFLINE="1")
    assert project.asked() == 0
    assert "error: config/locks/osf.csv: cannot be written: " in text
    assert "not asked, because of offline mode" in text
    assert "Traceback" not in text

    project.run("config/locks/osf.csv")
    before = project.asked()
    text = project.run(target, check=False, ENGRAM_OFFLINE="1")
    assert project.asked() == before
    line = project.mistake(LABELS)
    assert line.startswith(f"error: {target}: missing, and offline mode allows no download; put")
    assert project.lock()[LABELS].url in line
    assert sums(scans[LABELS])["sha256"] in line
    assert line in text


def test_terms_are_accepted_before_anything_is_fetched(project, scans):
    project.publish(few(scans))
    project.configure(terms="https://example.org/agreement")
    text = project.run(f"{RAW}/{LABELS}", check=False)
    assert "https://example.org/agreement" in text
    assert "datasets.osf.terms_accepted: true" in text
    assert "Traceback" not in text
    assert project.asked() == 0
    assert not (project.folder / "config/locks/osf.csv").exists()


def zipped(files):
    """A zip archive in which the files lie in a folder."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(f"data/{path}", data)
    return file.getvalue()


def test_an_archive_is_fetched_once_and_a_new_one_replaces_what_came_of_the_old(project, scans):
    files = few(scans)
    source = {"osf": "hxaz4", "base": f"{project.api.url}/v2", "archive": "{unit}.zip"}
    project.configure(source=source)
    first = zipped(files)
    project.publish({"sub01-scan01.zip": first})
    view = "results/views/osf/sub01-scan01/eeg_picture.h5"
    project.run(view)
    assert {path: project.raw()[path] for path in files} == files
    assert project.lock()["sub01-scan01.zip"].checksums == sums(first)
    assert len(project.storage.requests) == 1
    assert np.array_equal(store.open(project.folder / view)[0], pixels(files[EEG])[:, :90])

    changed = array(1 - labels(0))
    project.publish({"sub01-scan01.zip": zipped(files | {LABELS: changed})})
    target = f"{RAW}/{LABELS}"
    for path in ("config/locks/osf.csv", target, f"{RAW}/sub01-scan01.zip"):
        (project.folder / path).unlink()
    project.run(target)
    assert (project.folder / target).read_bytes() == changed
