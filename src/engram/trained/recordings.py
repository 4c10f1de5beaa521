"""From a recording without labels to what a model says of each of its windows.

The recording is read, rendered and encoded as the recipe in the model says, which is how the rows
were made that it was fitted on. What differs is converted where that is defined, and said: names
and number of channels, unit, rate, length. What cannot be converted is refused.
"""

import os
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from engram import backbones, datasets, store, views
from engram.errors import InputError
from engram.frozen.contract import VOLTS
from engram.job import digest, versions
from engram.planning import components, provenance
from engram.planning.companions import companions
from engram.planning.predicting import READERS
from engram.readers import atlases, channels
from engram.readers.eeg_files import resampled
from engram.recording import Recording
from engram.signals import quality

#: Options of datasets that make labels and nothing else.
OF_LABELS = ("conditions", "event_channels", "protocol", "facts")

#: Endings of files that are read as the dataset in the recipe is; others go by their signal.
IMAGES = (".nii", ".nii.gz")
SIMULATED = ".npz"


@dataclass(frozen=True)
class Need:
    """What a model needs of one signal of a recording.

    Attributes:
        channels: names of those that have to be there, in the order of the training.
        sfreq: samples per second (Hz); None if it does not matter.
        highest: Hz up to which there has to be something.
        seconds: that a whole scan, which is a row, lasts; None where rows are windows.
    """

    channels: tuple[str, ...] = ()
    sfreq: float | None = None
    highest: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class Made:
    """What was made of the recordings of one file.

    Attributes:
        table: as `Model.predict` gives it.
        view: path of the first view store, None if rows came without one.
        said: what was converted or left out, sentences.
    """

    table: pd.DataFrame
    view: Path | None
    said: list[str]


def predict(model, recording, device="cpu") -> pd.DataFrame:
    """What a model says of each window of a recording; see `engram.trained.Model.predict`.

    Args:
        model: `engram.trained.Model`.
        recording: path of a file, or a `Recording`.
        device: "cpu" or "cuda".

    Raises:
        InputError: the recording cannot be read, or lacks what the model needs.
    """
    way = Way(model, device)
    way.check()
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(recording, Recording):
            return way.made([recording], Path(folder), {}).table
        path = Path(recording)
        return way.made(way.read(path, path.stem), Path(folder), way.inputs(path)).table


class Way:
    """The way from recordings to what a model says of them.

    Args:
        model: `engram.trained.Model`.
        device: "cpu" or "cuda".
        settings: options of the dataset that are laid over those of the recipe, e.g. {"tr": 2.0}.
        gallery: stores of features of pictures, for a model of pictures.
    """

    def __init__(self, model, device="cpu", settings=None, gallery=None):
        self.model, self.device = model, device
        self.settings, self.gallery = settings or {}, gallery
        recipe = model.facts["recipe"]
        self.dataset = recipe.get("dataset", {})
        self.recipes = {source: recipe.get("sources", {}).get(source) for source in model.sources}
        self.headers = dict(zip(model.sources, model.headers, strict=True))
        self.needs = _needs(self.headers.values())

    def check(self):
        """Find out before the first recording whether there is a way.

        Raises:
            InputError: rows of the model are not made of recordings, or a backbone, its weights or
                their digest are not those that it was fitted with.
        """
        for source, recipe in self.recipes.items():
            kind = (recipe or {}).get("view", {}).get("kind")
            name = self.model.path.name
            if kind is None:
                raise InputError(f"{name}: does not say how rows of {source} are made; give rows")
            of = getattr(components.component("views", kind), "OF", Recording)
            if of is not Recording:
                raise InputError(
                    f"{name}: reads {source}, which is made of {of.__name__} and not of "
                    "recordings; give it stores of such rows"
                )
        return bool(self.loaded)

    # ---- reading ------------------------------------------------------------------------

    def read(self, path, name) -> list[Recording]:
        """The recordings of one file, which is called `name` where it does not say itself.

        Raises:
            InputError: it cannot be read.
        """
        rows = [{"subject": name, "scan": "recording", "file": str(path)}]
        return datasets.read({"dataset": self._reader(path), "unit": name, "rows": rows}, [path])

    def inputs(self, path) -> dict[str, str]:
        """Digests of a file and of those that are read with it."""
        return {str(one): digest(one) for one in (path, *companions(path))}

    def _reader(self, path):
        """Kind and options of the dataset that reads a file."""
        ending, kind = path.name.lower(), self.dataset["kind"]
        if ending.endswith(SIMULATED) and kind.startswith("simulated_"):
            wanted = kind
        elif ending.endswith(SIMULATED) or (ending.endswith(IMAGES) and kind != "bold_images"):
            raise InputError(
                f"{path}: nothing says how it is read: {self.model.path.name} is trained on "
                f"{kind}; give recordings, or tables of series of regions"
            )
        else:
            wanted = kind if ending.endswith(IMAGES) else self._by_signal()
        fields = components.fields("datasets", wanted)
        own = self.dataset if kind == wanted else {}
        options = {k: v for k, v in own.items() if k in fields and k not in OF_LABELS}
        if unknown := [key for key in self.settings if key not in fields]:
            raise InputError(
                f"{path}: is read by {wanted}, which has no option {unknown[0]!r}; there is "
                f"{', '.join(fields)}"
            )
        if wanted == "eeg_recordings":
            options |= {"channels": self._asked(options), "sfreq": None}
            options |= {} if "eog" in self.needs else {"eog": None}
        if kind == wanted and hasattr(module := components.component("datasets", kind), "told_by"):
            options |= module.told_by(path)
        return {"kind": wanted, **options, **self.settings}

    def _by_signal(self):
        """What reads files that are no simulation and no image."""
        known = [READERS[signal] for signal in self.needs if signal in READERS]
        return known[0] if known else self.dataset["kind"]

    def _asked(self, options):
        """EEG channels that are read; None: all."""
        needed = self.needs["eeg"].channels if "eeg" in self.needs else ()
        asked = [name for name in options.get("channels") or needed if name in needed]
        return asked or options.get("channels")

    # ---- converting ---------------------------------------------------------------------

    def fitted(self, recording) -> tuple[Recording, list[str]]:
        """A recording with the signals as they were in training, and what was converted.

        Raises:
            InputError: a signal or a channel is missing, or its rate is too low.
        """
        signals, said = {}, []
        for name, need in self.needs.items():
            if name not in recording.signals:
                raise InputError(
                    f"{recording.name}: has no signal {name!r}, which {self.model.path.name} "
                    f"reads; there is {', '.join(recording.signals) or 'none'}"
                )
            signals[name] = recording.signals[name]
            for convert in (_in_microvolts, _with_channels, _at_rate, _whole):
                signals[name], words = convert(signals[name], need, name, recording.name)
                said += words
        lasts = min([recording.duration, *(n.seconds for n in self.needs.values() if n.seconds)])
        return replace(recording, signals=signals, duration=lasts, labels=None), said

    # ---- making rows --------------------------------------------------------------------

    def made(self, recordings, folder, inputs) -> Made:
        """What the model says of recordings that were read; stores in between lie in `folder`.

        Encoding that was interrupted goes on where it stopped.

        Args:
            recordings: list of `Recording`, all of one file.
            folder: that these alone use.
            inputs: {file: digest} that they were read from.

        Raises:
            InputError: they lack what the model needs.
        """
        fitted, said = zip(*map(self.fitted, recordings), strict=True)
        of_views = {recipe["view"]["name"]: recipe["view"] for recipe in self.recipes.values()}
        for name, view in of_views.items():
            self._render(fitted, view, folder / f"{name}.h5", inputs)
        paths = {name: folder / f"{name}.h5" for name in of_views}
        table = self._predicted(paths, folder)
        said = dict.fromkeys([*_recorded(recordings), *(one for each in said for one in each)])
        return Made(table, next(iter(paths.values())), [*said])

    def made_of_store(self, path, folder) -> Made:
        """The same of rows that were made before: features, or a view whose features are wanted.

        Raises:
            InputError: they are not what the model was fitted on.
        """
        is_view = store.open(path).header.get("what") != "features"
        views_read = {source.partition("/")[0] for source in self.model.sources}
        encoded = any("/" in source for source in self.model.sources)
        if is_view and encoded and len(views_read) == 1:
            return Made(self._predicted({views_read.pop(): path}, folder), path, [])
        return Made(self.model.predict(path, self.device, self.gallery), None, [])

    def _predicted(self, of_views, folder):
        """What the model says of views, by their names."""
        paths = {}
        for source in self.recipes:
            view, _, backbone = source.partition("/")
            paths[source] = of_views[view]
            if backbone:
                paths[source] = folder / f"{source}.h5"
                self._encode(source, of_views[view], paths[source])
        only = next(iter(paths.values()))
        return self.model.predict(paths if len(paths) > 1 else only, self.device)

    def _render(self, recordings, view, path, inputs):
        spec = {"view": {key: view[key] for key in view if key != "name"}}
        spec |= {"windows": self.dataset.get("windows"), "unit": recordings[0].subject}
        views.render([*recordings], path, spec, self._provenance(spec, inputs))

    def _encode(self, source, view, path):
        backbone, spec, weights = self.loaded[source]
        rows = store.open(view)
        self.model.check(source, _header(rows.header, backbone, spec), view)
        inputs = {str(weights): digest(weights)} if weights else {}
        made_by = self._provenance(spec, {str(view): digest(view), **inputs})
        backbones.encode(rows, backbone, path, spec, made_by, made_from={"view": str(view)})

    @cached_property
    def loaded(self) -> dict:
        """(backbone, spec, weights file) by source, held against what is stated of its rows."""
        return {s: self._loaded(s, r) for s, r in self.recipes.items() if "backbone" in r}

    def _loaded(self, source, recipe):
        header = self.headers[source]
        spec = {key: recipe[key] for key in ("backbone", "takes") if key in recipe}
        if "precision" in header:  # what `auto` chose where the model was trained
            spec["backbone"] = spec["backbone"] | {"precision": header["precision"]}
        weights, view = self._weights(recipe), _Stated(self.model.path, header["view"])
        backbone = backbones.load(view, spec, weights, self.device)
        self.model.check(source, _header(view.header, backbone, spec), weights or recipe["name"])
        return backbone, spec, weights

    def _weights(self, recipe):
        file = recipe.get("file")
        if not file:
            return None
        above = self.model.path.resolve().parents  # {root}/results/{study}/models
        for root in (Path(), *above[3:4]):
            if (root / file).is_file():
                return root / file
        raise InputError(
            f"{file}: the weights of {recipe['name']}, which {self.model.path.name} needs, are not "
            f"there; run `snakemake --cores 1 {file}` with its study, or copy the file there"
        )

    def _provenance(self, spec, inputs):
        return {
            "spec": spec,
            "code": self.code,
            "inputs": inputs,
            "versions": versions(),
            "threads": os.cpu_count(),
            "device": self.device,
        }

    @cached_property
    def code(self) -> list[str]:
        """Modules that are run, with their digests."""
        kinds = {("heads", self.model.facts["head"]["kind"])}
        kinds |= {("datasets", kind) for kind in READERS.values()}
        kinds |= {("datasets", self.dataset["kind"])} if self.dataset else set()
        for recipe in filter(None, self.recipes.values()):
            made_by = {
                f"{part}s": recipe.get(part, {}).get("kind") for part in ("view", "backbone")
            }
            kinds |= {(family, kind) for family, kind in made_by.items() if kind}
        named = [f"engram.{family}.{kind}" for family, kind in sorted(kinds)]
        return provenance.fingerprint(__file__, named).split()


@dataclass(frozen=True)
class _Stated:
    """A view of which nothing is there but what was stated in training."""

    path: Path
    header: dict


def _of_view(header):
    return header.get("view", header)


def _header(view, backbone, spec):
    """What features of a view would state."""
    kind = spec["backbone"]["kind"]
    return {"what": "features", "kind": kind, "view": store.stated(view), **backbone.facts}


def _needs(headers):
    """{signal: Need} of all views; channels that were missing in training are not needed."""
    found = {}
    for view in map(_of_view, headers):
        if "modality" not in view:
            continue
        settings, missing = view.get("settings", {}), {*view.get("missing", ())}
        names = [name for name in view.get("channels", ()) if name not in missing]
        rate = settings.get("sfreq") or (None if settings.get("tr") else view.get("sfreq"))
        band = view.get("band") or [0, (rate or 0) / 2]
        whole = view.get("row") == "scan" and "frames" in view and not settings.get("length")
        known = found.get(view["modality"], Need())
        found[view["modality"]] = Need(
            tuple(dict.fromkeys([*known.channels, *names])),
            known.sfreq or rate,
            max(known.highest, settings.get("fmax") or band[1]),
            known.seconds or (view["frames"] * view["tr"] if whole else None),
        )
    return found


def _in_microvolts(signal, need, name, recording):
    if name != "eeg" or signal.unit not in VOLTS or signal.unit == "uV":
        return signal, []
    data = signal.data * np.asarray(VOLTS[signal.unit], signal.data.dtype)
    return replace(signal, data=data, unit="uV"), [f"{name} from {signal.unit} to uV"]


def _with_channels(signal, need, name, recording):
    """The channels that are needed, by the names and in the order that they had in training."""
    if not need.channels:
        return signal, []
    one_name = channels.electrode if name == "eeg" else atlases.same
    wanted = {one_name(channel): channel for channel in need.channels}
    there = [one_name(channel) for channel in signal.channels]
    bad = {one_name(channel): channel for channel in signal.bad}
    missing = [wanted[key] for key in wanted if key not in there and key not in bad]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            f"{recording}: has no channel {', '.join(missing[:5])}{more}, which the model reads; "
            f"there is {', '.join(signal.channels[:20])}"
        )
    names = [key for key in wanted if key in there]
    if twice := [wanted[key] for key in names if there.count(key) > 1]:
        raise InputError(f"{recording}: several channels are {twice[0]}; leave but one of them in")
    at = [there.index(key) for key in names]
    kept = replace(
        signal,
        data=signal.data if at == [*range(len(there))] else signal.data[at],
        channels=tuple(wanted[key] for key in names),
        bad=tuple(wanted[key] for key in bad if key in wanted),
    )
    extra = [c for c, key in zip(signal.channels, there, strict=True) if key not in wanted]
    said = [f"not read, as the model knows none: {_few(extra)}"] if extra else []
    return kept, said + ([f"marked bad: {_few(kept.bad)}"] if kept.bad else [])


def _few(names):
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _at_rate(signal, need, name, recording):
    if name == "eeg":
        quality.check_channels(signal, recording)
        quality.check_spread(signal, recording)
    if not need.sfreq or abs(signal.sfreq / need.sfreq - 1) < 1e-6:
        return signal, []
    if signal.sfreq / 2 < need.highest * (1 - 1e-6):
        raise InputError(
            f"{recording}: {signal.sfreq:g} samples per second of {name} hold frequencies up to "
            f"{signal.sfreq / 2:g} Hz, but the model reads them up to {need.highest:g} Hz"
        )
    data = resampled(signal.data.astype(np.float64), signal.sfreq, need.sfreq)
    found = replace(signal, data=data.astype(np.float32), sfreq=need.sfreq)
    return found, [f"{name} from {signal.sfreq:g} to {need.sfreq:g} samples per second"]


def _whole(signal, need, name, recording):
    """A scan that is a row as a whole, as long as those of the training."""
    if not need.seconds:
        return signal, []
    there, wanted = signal.data.shape[1], round(need.seconds * signal.sfreq)
    if there < wanted:
        raise InputError(
            f"{recording}: {name} lasts {there / signal.sfreq:g} s, but rows of the model are "
            f"whole scans of {need.seconds:g} s"
        )
    if there == wanted:
        return signal, []
    return replace(signal, data=signal.data[:, :wanted]), [
        f"of {name} the first {need.seconds:g} s"
    ]


def _recorded(recordings):
    """What the reader says of the channels of a file."""
    for recording in recordings:
        for facts in recording.origin.get("recorded", {}).values():
            yield from facts["said"]
            left = [f"{name} ({why})" for name, why in facts["left_out"].items()]
            if left:
                yield f"channels left out: {_few(left)}"
