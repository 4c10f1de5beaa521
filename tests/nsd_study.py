"""A study of simulated NSD, small, whose stages are called as their rules do."""

from engram import datasets, store, views
from engram.backbones import extract
from engram.downloads import download
from engram.planning.plan import Plan

ROI = [f"{{unit}}/roi/{name}.nii.gz" for name in ("nsdgeneral", "prf-visualrois", "floc-faces")]
DATASET = {
    "kind": "simulated_nsd",
    "title": "Simulated NSD",
    "units": ["subj01", "subj02"],
    "subjects": ["subj01", "subj02"],
    "sessions": [str(i) for i in range(1, 9)],
    "files": ["nsd_expdesign.mat", *ROI, "{unit}/betas/betas_session{sessions}.hdf5"],
    "shared": {
        "stimuli": [
            "nsd_expdesign.mat", "nsd_stimuli.hdf5", "nsd_stim_info_merged.csv",
            "captions_train2017.json", "captions_val2017.json",
        ]
    },
}  # fmt: skip
CONFIG = {
    "run": [],
    "maps": [],
    "datasets": {"nsd": DATASET},
    "views": {
        "betas": {"kind": "betas", "protocol": "nsd40"},
        "betas37": {"kind": "betas", "protocol": "nsd37"},
        "voxels": {"kind": "voxels", "protocol": "nsd40"},
        "photograph": {"kind": "photograph", "unit": "stimuli", "size": [64, 64]},
        "caption": {"kind": "captions", "unit": "stimuli"},
    },
    "backbones": {
        "pixels": {"kind": "pixels", "grid": 2},
        "corners": {"kind": "pixels", "grid": 4},
    },
    "heads": {},
    "experiments": {},
}


class Study:
    """Stages on the files of one dataset."""

    def __init__(self, folder, **changed):
        config = CONFIG | {"datasets": {"nsd": DATASET | changed}}
        self.folder, self.plan = folder, Plan(config)

    def raw(self, unit):
        """Paths of the raw files of a unit, simulated unless they are there."""
        paths = [self.folder / path for path in self.plan.raw("nsd", unit)]
        for path, row in zip(paths, self.plan.rows("nsd", unit), strict=True):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                spec = self.plan.spec("download", shelf="raw", name="nsd", file=row["file"])
                download(path, spec)
        return paths

    def read(self, unit):
        raw = self.raw(unit)
        view = "photograph" if unit == "stimuli" else "betas"
        (found,) = datasets.read(self.plan.spec("render", dataset="nsd", unit=unit, view=view), raw)
        return found

    def render(self, unit, view, **options):
        """The store of a view, some of its options changed."""
        raw = self.raw(unit)
        spec = self.plan.spec("render", dataset="nsd", unit=unit, view=view)
        spec = spec | {"view": spec["view"] | options}
        path = self.folder / self.plan.store("nsd", unit, view)
        path = path.with_stem(f"{path.stem}{''.join(map(str, options.values()))}")
        path.parent.mkdir(parents=True, exist_ok=True)
        views.render(datasets.read(spec, raw), path, spec, {})
        return store.open(path)

    def extract(self, source):
        view, _, backbone = source.partition("/")
        self.render("stimuli", view)
        paths = [self.folder / self.plan.store("nsd", "stimuli", one) for one in (view, source)]
        paths[1].parent.mkdir(parents=True, exist_ok=True)
        names = {"dataset": "nsd", "unit": "stimuli", "view": view, "backbone": backbone}
        extract(paths[0], None, paths[1], self.plan.spec("extract", **names), {}, "cpu")
        return store.open(paths[1])
