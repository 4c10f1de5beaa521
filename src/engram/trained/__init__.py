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
        state: parameters by name, as the file has them.
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
            that chose the same input.
        """
        head, options = components.options("heads", self.facts["head"])
        return tuple(
            head.predict(state, x, self, options, device) for state in (self._kept, self._folds)
        )

    @property
    def _kept(self):
        return {
            name.removeprefix("kept/"): values.reshape(-1, *values.shape[2:])
            for name, values in self.state.items()
            if name.startswith("kept/")
        }

    @property
    def _folds(self):
        """Parameters of the folds, without the control and folds that chose another input."""
        number, inputs = self.facts["kept"]["candidate"], self.facts["chosen"].get("x", {})
        prefix = f"{number}/" if inputs else ""
        folds = [
            f
            for f, name in enumerate(self.facts["folds"])
            if inputs.get(name, self.sources) == self.sources
        ]
        runs = [r for r, run in enumerate(self.facts["runs"]) if not run["shuffled"]]
        return {
            name.removeprefix(prefix): values[np.ix_(folds, runs)].reshape(-1, *values.shape[2:])
            for name, values in self.state.items()
            if name.startswith(prefix) and not name.startswith(("kept/", "familiar/"))
        }

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

    def predict(self, x, device="cpu") -> pd.DataFrame:
        """What the model says of rows, a line each.

        Args:
            x: path of a store, or several, or an array (n, ...); where the model has several
                sources {source: path, paths or array}.
            device: "cpu" or "cuda".

        Returns:
            Of stores the names of their rows and what is known of them; then `class` and the
            probability `p_{class}` of each, or `value`; `spread`, the standard deviation over folds
            and seeds of that probability or number; and `unlike`, see `Model.unlike`. Rows that a
            store excludes have no prediction, and the reason in `exclude`.

        Raises:
            InputError: the rows are not what the model was fitted on.
        """
        arrays, table = self._rows(x)
        usable = np.flatnonzero(table["exclude"] == "")
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

    def check(self, source, header, path):
        """Refuse rows that state something else than those the model was fitted on.

        Raises:
            InputError: names the file, the fact and both sides.
        """
        wanted = _comparable(self.facts["contract"][source])
        said = store.differences.said(wanted, _comparable(header))
        if said:
            raise InputError(
                f"{path}: is not what {self.path.name} was fitted on as {source}; they differ in "
                f"{said}"
            )
        self._check_missing(source, header, path)

    def _check_missing(self, source, header, path):
        lacking = [_missing(one) for one in (self.facts["contract"][source], header)]
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


def load_model(path) -> Model:
    """The model of a file that stage `train` wrote; tensors and JSON, nothing that runs.

    Raises:
        InputError: it is no such file, or no model was kept.
    """
    try:
        with safe_open(path, "np") as file:
            facts = json.loads((file.metadata() or {})["engram"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a model is {{study}}/models/NAME.safetensors"
        ) from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: is no model that Engram wrote ({error})") from None
    if "kept" not in facts:
        raise InputError(f"{path}: holds no model for use; train it again with this version")
    return Model(Path(path), facts, state)


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
    if not classes:
        value, spread = probabilities[:, 0], folds[:, :, 0].std(0)
        return pd.DataFrame({"value": value, "spread": spread})
    best = probabilities.argmax(1)
    rows = np.arange(len(best))
    columns = {"class": np.asarray(classes, object)[best]}
    columns |= {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return pd.DataFrame(columns | {"spread": folds[:, rows, best].std(0)})
