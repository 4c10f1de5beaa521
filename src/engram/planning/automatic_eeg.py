"""What stands beside models of EEG spectrograms: band power, a network of the image, covariances.

A model that does not beat these has added nothing.  Standard library only, like
`engram.planning.plan`.
"""

from engram.planning import components
from engram.planning.plan import Plan

VIEW, SERIES = "multitaper", "eeg_series"

#: What these rows are called.
TITLES = {
    "bandpower": "Band power, linear",
    "cnn": "CNN end to end",
    "covariance": "EEG covariance, tangent space",
}

#: Their heads and backbones, by the name that each gets where the study has none like it.
HEADS = {
    "bandpower": ("linear", {"kind": "linear"}),
    "cnn": ("cnn", {"kind": "cnn"}),
    "covariance": ("linear_tangent", {"kind": "linear", "space": "tangent"}),
}
BACKBONES = {
    "bandpower": ("bandpower", {"kind": "bandpower"}),
    "covariance": (
        "eeg_covariance",
        {"kind": "connectome", "measure": "covariance", "standardized": False},
    ),
}

#: Options of the spectrogram by which its series are made too.
ALIKE = ("signal", "amplitude", "flat", "jump", "bad_share")

#: Keys by which two experiments ask the same of the same rows, and may stand in one comparison.
SAME = ("dataset", "y", "baseline", "folds")


def view_of(plan, experiment) -> str | None:
    """The spectrogram of EEG, if it is all that an experiment sees."""
    views = {source.partition("/")[0] for source in plan.sources(experiment)}
    view = views.pop()
    if views or plan.kind_of_view(view) != VIEW:
        return None
    return view if plan.config["views"][view].get("signal", "eeg") == "eeg" else None


def beside(plan, this) -> list[str]:
    """Experiments that run on the same data with the same target."""
    return [
        one for one in plan.experiments()
        if all(plan.known[one].get(key) == this[key] for key in ("dataset", "y"))
    ]  # fmt: skip


def rows(plan, this, view, task) -> list[str]:
    """The rows that suit the data and the task, of which there are none beside yet."""
    there = {stands_for(plan, one, view) for one in beside(plan, this)}
    serve = [
        row for row, (_, head) in HEADS.items()
        if task in components.constant(f"engram.heads.{head['kind']}", "TASKS")
    ]  # fmt: skip
    several = _channels(plan.config, this["dataset"], view) > 1
    return [row for row in serve if row not in there and (row != "covariance" or several)]


def stands_for(plan, experiment, view) -> str | None:
    """Which of the rows an experiment is, of a model of this view; None if it is none."""
    sources = plan.sources(experiment)
    of, _, backbone = sources[0].partition("/")
    head = plan.config["heads"][plan.known[experiment]["head"]]
    if len(sources) > 1 or plan.model(experiment):
        return None
    if not backbone:
        return "cnn" if of == view and head["kind"] == "cnn" else None
    kind = plan.backbone(backbone)["kind"]
    if kind == "bandpower":
        return "bandpower" if of == view else None
    tangent = head.get("space") == "tangent" and plan.kind_of_view(of) == SERIES
    return "covariance" if tangent else None


def joined(plan, this, view, row) -> str | None:
    """An experiment of its own that is such a row and can stand in the comparison too."""
    for name, its in plan.config["experiments"].items():
        same = "model" not in its and all(its.get(key) == this.get(key) for key in SAME)
        if same and stands_for(plan, name, view) == row:
            return name
    return None


def added(config, name, this, view, row) -> str:
    """Add a row to the experiments, and what it needs; its name.

    Args:
        config: changed.
        name: of the experiment or comparison that it stands beside.
        this: keys that they share.
        view: what the model sees.
        row: one of `HEADS`.
    """
    x = view if row == "cnn" else f"{view}/{_named(config['backbones'], *BACKBONES[row])}"
    if row == "covariance":
        series = _named(config["views"], f"{view}_series", _series(config, view))
        x = f"{series}/{x.partition('/')[2]}"
    head = _named(config["heads"], *HEADS[row])
    experiment = {**this, "x": x, "head": head, "title": TITLES[row], "automatic": True}
    found = free(f"{name}-{row}", Plan(config).known)
    config["experiments"][found] = experiment
    return found


def _series(config, view):
    """The series that a spectrogram is made of, as a view."""
    spec = config["views"][view]
    channels = spec.get("channels") or spec.get("regions")
    limited = {"band": [1.0, spec["fmax"]]} if spec.get("fmax", 0) > 1 else {}
    return (
        {"kind": SERIES}
        | {key: spec[key] for key in ALIKE if key in spec}
        | ({"channels": channels} if channels else {})
        | limited
    )


def _channels(config, dataset, view):
    """How many channels the configuration says that the spectrogram is made of; 0 if it does not.

    Files are not read here, and a single channel has no covariance.
    """
    spec = config["views"][view]
    if chosen := spec.get("channels") or spec.get("regions"):
        return len(chosen)
    for part in components.parts("datasets", config["datasets"][dataset]):
        if chosen := part.get("channels"):
            return len(chosen)
    kind = config["datasets"][dataset]["kind"]
    return components.constant(f"engram.datasets.{kind}", "EEG_CHANNELS") or 0


def _named(known, name, spec):
    """The name of what has exactly these options, whatever its title; it is added if need be."""
    for one, its in known.items():
        if {key: its[key] for key in its if key != "title"} == spec:
            return one
    known[name := free(name, known)] = spec
    return name


def free(name, taken) -> str:
    """The name, with as many underscores as it takes to be none of those that are taken."""
    while name in taken:
        name += "_"
    return name
