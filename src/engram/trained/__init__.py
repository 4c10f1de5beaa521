"""What stage `train` kept, read again and put to use on other rows."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from engram import store
from engram.errors import InputError
from engram.measures import unlike
from engram.planning import components
from engram.recording import Recording
from engram.trained import nearest, vectors

#: Facts about a view that have to be the same where a model is applied; others may differ.
OF_VIEW = (
    *("what", "axes", "unit", "frequencies", "times", "row", "tr", "band", "normalisation"),
    *("frames", "limits", "regions"),
)
#: Facts about features that need not be.
FREE = ("view", "input", *store.OWN)


@dataclass(frozen=True)
class Model:
    """A head that was fitted on all subjects, beside those of its folds.

    Attributes:
        path: of the file.
        facts: its header: `task`, `classes`, `recipe`, `contract`, `labels`, `flags`, `kept`...
        state: parameters by name, as the file has them, but for coefficients of vectors.
    """

    path: Path
    facts: dict
    state: dict[str, np.ndarray]

    @property
    def classes(self) -> list[str]:
        """Names of the classes; none where numbers are predicted."""
        return self.facts.get("classes", [])

    @property
    def sources(self) -> list[str]:
        """What the rows are of, e.g. "spectrogram/clip"; several stand side by side."""
        return self.facts["kept"]["sources"]

    @property
    def headers(self) -> list[dict]:
        """What has to be stated of the rows of each source."""
        return [self.facts["contract"][source] for source in self.sources]

    def outputs(self, x, device="cpu") -> tuple[np.ndarray, np.ndarray]:
        """What the head says of rows: probabilities of the classes, or numbers.

        Args:
            x: one array (n, ...) a source.
            device: "cpu" or "cuda".

        Returns:
            (seeds, n, k) of the model that is kept, and (folds * seeds, n, k) of the folds' models
            that chose the same input; none of them where these were not kept whole (`keep_backbone`
            of head finetune).
        """
        head, options = components.options("heads", self.facts["head"])
        states = self.kept_of()[0], self.folds_of()[0]
        return tuple(head.predict(state, x, self, options, device) for state in states)

    def kept_of(self, name=None) -> tuple[dict, list[int]]:
        """Parameters (models * seeds, ...) of the model of that name, or of all; and which it is.

        The second is the position of each among `kept`'s models.
        """
        models, seeds = (self.facts["kept"][key] for key in ("models", "seeds"))
        chosen = [m for m, other in enumerate(models) if name in (None, other)]
        state = {
            key.removeprefix("kept/"): values[chosen].reshape(-1, *values.shape[2:])
            for key, values in self.state.items()
            if key.startswith("kept/")
        }
        return state, np.repeat(chosen, len(seeds)).tolist()

    def folds_of(self, name=None) -> tuple[dict, list[int]]:
        """Parameters (folds * seeds, ...) of the fold of that name, or of all; and which it is.

        Without the control and folds that chose another input.
        """
        number, inputs = self.facts["kept"]["candidate"], self.facts["chosen"].get("x", {})
        prefix = f"{number}/" if inputs else ""
        folds = [
            f
            for f, other in enumerate(self.facts["folds"])
            if name in (None, other) and inputs.get(other, self.sources) == self.sources
        ]
        runs = [r for r, run in enumerate(self.facts["runs"]) if not run["shuffled"]]
        state = {
            key.removeprefix(prefix): values[np.ix_(folds, runs)].reshape(-1, *values.shape[2:])
            for key, values in self.state.items()
            if key.startswith(prefix) and not key.startswith(("kept/", "familiar/"))
        }
        return state, np.repeat(folds, len(runs)).tolist()

    def unlike(self, x) -> np.ndarray:
        """How unlike the rows of its training rows are, the most unlike source; float32 (n,).

        See `engram.measures.unlike`: above 1 is what one row in a hundred of a new subject reaches.
        """
        found = []
        for source, values in zip(self.sources, x, strict=True):
            found.append(unlike.distance(self.familiar(source), values))
        return np.max(found, axis=0)

    def familiar(self, source) -> dict[str, np.ndarray]:
        """What is kept of the rows of a source that the model was fitted on, by name.

        As from `engram.measures.unlike.reference`, and `digests`, uint64, of each row.
        """
        prefix = f"familiar/{source}/"
        return {n.removeprefix(prefix): v for n, v in self.state.items() if n.startswith(prefix)}

    def predict(self, x, device="cpu", gallery=None, subject=None) -> pd.DataFrame:
        """What the model says of rows, a line each.

        Args:
            x: path of a store, or several, or an array (n, ...); where the model has several
                sources {source: path, paths or array}; or path of a recording, or a `Recording`.
            device: "cpu" or "cuda".
            gallery: where the model tells pictures apart, the stores of the features of those to
                choose among, path, paths or {source: paths}.
            subject: where vectors are predicted, whose model is asked, if the rows do not say so.

        Returns:
            Of stores the names of their rows and what is known of them; then `class` and the
            probability `p_{class}` of each, or `value`; `spread`, the standard deviation over folds
            and seeds of that probability or number, NaN where models of the folds were not kept;
            and `unlike`, see `Model.unlike`. Rows that a store excludes have no prediction, and the
            reason in `exclude`. Where the model says what a subject is, a row is still a line: the
            scores are of means over all rows of a subject.

        Of pictures: `picture_1` to `picture_5`, the names of the nearest, the cosine with each in
        `similarity_1` to `similarity_5`, mean over seeds, and `spread` of the first. Of vectors: a
        column a number, called 0, 1, ...; `engram.trained.vectors.blocks` gives some at a time.

        Raises:
            InputError: the rows are not what the model was fitted on, or the recording lacks what
                it needs.
        """
        if self.facts["task"] == "pairs":
            return nearest.predict(self, x, gallery, device)
        if self.facts["task"] == "vectors":
            return vectors.predict(self, x, subject)
        if isinstance(x, Recording) or (isinstance(x, str | Path) and not is_store(x)):
            return components.module("trained", "recordings").predict(self, x, device)
        arrays, table = self._rows(x)
        usable = np.flatnonzero(table["exclude"] == "")
        if not len(usable):
            return table
        rows = [values[usable] for values in arrays]
        for source, values in zip(self.sources, rows, strict=True):
            finite = np.isfinite(values).reshape(len(values), -1).all(1)
            if not finite.all():
                raise InputError(
                    f"{self.path.name}: {(~finite).sum()} rows of {source} hold NaN or infinite "
                    f"values, first {table.index[usable[~finite][0]]}; exclude them"
                )
        kept, folds = self.outputs(rows, device)
        found = _said(kept.mean(0), folds, self.classes).assign(unlike=self.unlike(rows))
        found.index = table.index[usable]
        return table.join(found)

    def _rows(self, x):
        given = x if isinstance(x, dict) else dict.fromkeys(self.sources[:1], x)
        if {*given} != {*self.sources}:
            raise InputError(
                f"{self.path.name}: is fitted on {', '.join(self.sources)}; give "
                "{source: rows} of each"
            )
        found = {source: self._of_source(source, rows) for source, rows in given.items()}
        tables = [found[source].table for source in self.sources]
        at = store.align(*tables)
        arrays = [found[s].array[i] for s, i in zip(self.sources, at, strict=True)]
        table = tables[0].iloc[at[0]]
        for other, rows in zip(tables[1:], at[1:], strict=True):
            reasons = other["exclude"].iloc[rows].to_numpy()
            table = table.assign(
                exclude=np.where(table["exclude"] == "", reasons, table["exclude"])
            )
        return arrays, table

    def _of_source(self, source, rows):
        if isinstance(rows, np.ndarray):
            table = pd.DataFrame({"exclude": ""}, index=[f"row-{i:06d}" for i in range(len(rows))])
            self.check_shape(source, rows, "the rows")
            return store.Rows(rows, table, {})
        paths = [rows] if isinstance(rows, str | Path) else list(rows)
        for path in paths:
            self.check(source, store.open(path).header, path)
        loaded = store.load(paths)
        self.check_shape(source, loaded.array, paths[0])
        return loaded

    def check(self, source, header, path, side="contract"):
        """Refuse rows that state something else than those the model was fitted on.

        Args:
            source: of the rows, or a target, with `side` "labels".
            header: of their store.
            path: of it.

        Raises:
            InputError: names the file, the fact and both sides.
        """
        wanted = _comparable(self.facts[side][source])
        said = store.differences.said(wanted, _comparable(header))
        if said:
            raise InputError(
                f"{path}: is not what {self.path.name} was fitted on as {source}; they differ in "
                f"{said}"
            )
        self._check_missing(source, header, path, side)

    def _check_missing(self, source, header, path, side):
        lacking = [_missing(one) for one in (self.facts[side][source], header)]
        if lacking[0] != lacking[1]:
            raise InputError(
                f"{path}: lacks {_listed(lacking[1])}, but {self.path.name} was fitted on rows "
                f"that lack {_listed(lacking[0])}; name in `without` of the view what either "
                "lacks, and train again"
            )

    def check_shape(self, source, values, path):
        """Refuse rows of another shape.

        Raises:
            InputError: names the file and both shapes.
        """
        prefix = "familiar/" + source + "/shape"
        wanted = tuple(self.state[prefix]) if prefix in self.state else values.shape[1:]
        if wanted != values.shape[1:]:
            raise InputError(
                f"{path}: has rows of shape {values.shape[1:]}, but {self.path.name} was fitted on "
                f"{tuple(map(int, wanted))} as {source}"
            )


def is_store(path) -> bool:
    """Whether a path is that of a store of rows, by its ending, and not of a recording."""
    return Path(path).suffix in store.formats.FORMATS


def load_model(path) -> Model:
    """The model of a file that stage `train` wrote; tensors and JSON, nothing that runs.

    Raises:
        InputError: it is no such file, or no model was kept.
    """
    try:
        with safe_open(path, "np") as file:
            facts = json.loads((file.metadata() or {})["engram"])
            names = [n for n in file.keys() if not n.endswith(vectors.LARGE)]  # noqa: SIM118
            state = {name: file.get_tensor(name) for name in names}
        _refuse_other_facts(facts)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a model is {{study}}/models/NAME.safetensors"
        ) from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: is no model that Engram wrote ({error})") from None
    if "kept" not in facts:
        kind = facts.get("head", {}).get("kind")
        how = "set `coefficients: true` of it" if kind == "ridge" else "use another head"
        raise InputError(f"{path}: head {kind} kept no model for use; {how} and train again")
    return Model(Path(path), facts, state)


def _refuse_other_facts(facts):
    """Refuse facts of another form than stage `train` writes.

    Raises:
        KeyError, TypeError, ValueError: which it is.
    """
    if not isinstance(facts, dict):
        raise TypeError("its header is no JSON object")
    kinds = {"head": dict, "task": str}
    if "kept" in facts:
        kinds |= {"kept": dict, "contract": dict, "folds": list, "runs": list, "chosen": dict}
    for key, kind in kinds.items():
        if not isinstance(facts[key], kind):
            raise TypeError(f"`{key}` of its header is no {kind.__name__}")
    if facts["head"].get("kind") not in components.kinds("heads"):
        raise ValueError(f"there is no head {facts['head'].get('kind')!r}")
    for source in facts.get("kept", {}).get("sources", []):
        if not isinstance(facts["contract"][source], dict):
            raise TypeError(f"`contract` of {source} is no dict")


def _missing(header):
    """Channels or regions that the rows lack."""
    given = header.get("input", {}).get("missing") or header.get("view", header).get("missing")
    return sorted(given or [])


def _listed(names):
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more if names else "none"


def _comparable(header):
    of_view = header.get("view", header)
    same = {key: of_view[key] for key in OF_VIEW if key in of_view}
    if of_view.get("what") != "spectrogram" and "input" not in header:  # else averaged, or in order
        same["channels"] = of_view.get("channels")
    if "view" not in header:
        return same
    return {"view": same} | {key: header[key] for key in header if key not in FREE}


def _said(probabilities, folds, classes):
    """Lines of a table: mean of the seeds, and the spread of all models of the folds."""
    folds = folds if len(folds) else np.full((1, *folds.shape[1:]), np.nan)
    if not classes:
        value, spread = probabilities[:, 0], folds[:, :, 0].std(0)
        return pd.DataFrame({"value": value, "spread": spread})
    best = probabilities.argmax(1)
    rows = np.arange(len(best))
    columns = {"class": np.asarray(classes, object)[best]}
    columns |= {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return pd.DataFrame(columns | {"spread": folds[:, rows, best].std(0)})
