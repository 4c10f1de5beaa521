"""Decoders: what draws a picture of each test image from what was predicted of it; stage `decode`.

A component has `load(options, sources, weights, device)`, which gives a decoder: a callable with
`size`, (height, width) of its pictures, and `facts` for their header, that maps `given`, what was
predicted of some images, and one generator an image to uint8 RGB (b, height, width, 3):

- `given` is {option: float32 (b, d), latents as a head wrote them, or uint8 (b, h, w, 3), pictures
  of another decoder};
- `sources` is {option: header of what it reads, with `shape`, that of a row};
- `weights` is {option: path}, without the options whose weights are `random`.

`load` raises InputError where latents are of another backbone, size or checkpoint than it takes.
What else is known of a component stands in constants that the plan reads without importing it:

- `READS`: {option: "latents", the option names an experiment, or "pictures", another decoder};
  what an option that is None names is not read;
- `BACKBONES`: {option: kinds of backbones whose latents it takes}; without one it takes any;
- `WEIGHTS`: options that name weights: a name under `checkpoints`, a file, a folder, or `random`;
- `WEIGHTS_OF`: the option whose latents it decodes with the weights of the backbone that they are
  of, `weights[option]`;
- `TRAINING`: the option whose training images it reads too, `sources["training"]`, a `Training`.

One that has `others(options, images)`, int (n,), is given for each image what was predicted of
another; patterns of regions, rows that are left out of scores, keep their own.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engram import flags, store
from engram.errors import InputError
from engram.planning import components
from engram.progress import progress

COLUMNS = ("subject", "split", "concept", "stimulus", "repetitions", "exclude")

#: What has to be the same of all that a decoder reads.
ALIKE = ("protocol", "zscore")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every decoder.

    Attributes:
        seed: of what is drawn at random, for each image by this and the name of the image, so that
            neither order nor batch changes a picture.
        batch_size: images that are drawn at once; so many are lost if the job is killed.
    """

    seed: int = 0
    batch_size: int = 8


@dataclass(frozen=True)
class Training:
    """What a subject was shown in training, and what is known of it.

    Attributes:
        images: names, in the order of the responses.
        features: rows of their true features: has `shape`, (n, ...), and gives those at positions.
        pictures: rows of the pictures themselves likewise, uint8 (n, h, w, 3).
    """

    images: list
    features: object
    pictures: object


def generator(seed, image) -> torch.Generator:
    """Random numbers of one image, made on the CPU, so that no device changes them."""
    digest = hashlib.sha256(f"{seed} {image}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def decode(sources, weights, view, spec, made_by, device):
    """Stage `decode`: write the pictures of the test images of one unit, as a view.

    The store has uint8 RGB (n, h, w, 3), a row a prediction, named and with the columns of the
    predictions. A decoding that was killed goes on after the last batch that was finished, to the
    same bytes: all batches have the same size, the last is padded.

    Args:
        sources: paths of the stores by what they are, {name: [path, ...]}: one of each option in
            `READS`; of the `TRAINING` images "responses", "features" and "pictures".
        weights: paths of the weights by option, {option: [path]}.
        view: path of the view store to write.
        spec: dict with `decoder` (kind and options) and `unit`, the subject.
        made_by: provenance of the job, for the header.
        device: "cpu" or "cuda".

    Raises:
        InputError: there is no prediction of the subject, sources are of other images or protocols,
            or what was predicted is not what the decoder takes.
    """
    module, options = components.options("decoders", spec["decoder"])
    if options.batch_size < 1:
        raise InputError(f"decoders: batch_size is {options.batch_size}; it must be at least 1")
    named = [option for option in module.READS if option in sources]
    read = {option: _Some.of(sources[option][0], spec["unit"]) for option in named}
    table = _same_images(read)
    headers = {option: one.source.header | {"shape": one.shape[1:]} for option, one in read.items()}
    facts = dict(headers)
    if hasattr(module, "TRAINING"):
        facts["training"] = _training(sources)
    decoder = module.load(
        options, facts, {option: Path(path) for option, (path,) in weights.items()}, device
    )
    images = table["stimulus"].to_numpy(str)
    given = _given(module, options, table)
    drawn = any(getattr(options, name) == "random" for name in getattr(module, "WEIGHTS", ()))
    header = _header(spec["decoder"]["kind"], options, headers, decoder, drawn, made_by)
    batch = min(options.batch_size, len(images))
    shape = (len(images), *decoder.size, 3)
    with store.resume(view, table, shape, np.uint8, header, batch) as parts:
        missing = parts.missing()
        done = len(images) - sum(stop - start for start, stop in missing)
        bar = progress(len(images), f"{spec['unit']}/{Path(view).stem}", "images", done=done)
        with bar:
            for start, stop in missing:
                rows = np.minimum(np.arange(start, start + batch), stop - 1)
                generators = [generator(options.seed, image) for image in images[rows]]
                values = {option: one[given[rows]] for option, one in read.items()}
                parts[start:stop] = decoder(values, generators)[: stop - start]
                bar.update(stop - start)


# ---- what is read -----------------------------------------------------------------------


class _Some:
    """Some rows of a store as if they were all; nothing is read before it is asked for."""

    def __init__(self, source, at):
        self.source, self.at = source, np.asarray(at)
        self.table = source.table.iloc[self.at]
        self.shape = [len(self.at), *source.shape[1:]]

    @staticmethod
    def of(path, unit):
        """The rows of one subject."""
        source = store.open(path)
        at = np.flatnonzero(source.table["subject"].to_numpy(str) == unit)
        if not len(at):
            raise InputError(f"{path}: predicts no image of {unit}; train it with this subject")
        return _Some(source, at)

    def __getitem__(self, rows) -> np.ndarray:
        return self.source[self.at[rows]]


def _same_images(read):
    """Table of the images, that of the first source; the others are put in its order."""
    (first, one), *others = read.items()
    for option, other in others:
        for key in ALIKE:
            stated = [this.source.header.get(key) for this in (one, other)]
            if stated[0] != stated[1]:
                raise InputError(
                    f"{one.source.path} and {other.source.path} differ in {key}: {stated[0]} and "
                    f"{stated[1]}; name experiments of one view of responses"
                )
        at = other.table.index.get_indexer(one.table.index)
        if (at < 0).any() or len(at) < len(other.table):
            raise InputError(
                f"`{first}` and `{option}` of the decoder are predictions of other images: "
                f"{one.source.path} and {other.source.path}; name experiments of the same x"
            )
        read[option] = _Some(other.source, other.at[at])
    return one.table[[name for name in COLUMNS if name in one.table]]


def _given(module, options, table):
    """Row whose prediction each row is drawn from, int (n,)."""
    given = np.arange(len(table))
    if hasattr(module, "others"):
        used = np.flatnonzero(table["exclude"] == "")
        images = table["stimulus"].to_numpy(str)[used]
        given[used] = used[module.others(options, images)]
    return given


def _training(sources):
    """The training images of a subject."""
    responses = store.open(sources["responses"][0])
    table = responses.table[(responses.table["split"] == "train")]
    images = [*dict.fromkeys(table["stimulus"][table["exclude"] == ""])]
    found = []
    for name in ("features", "pictures"):
        known = store.Stacked(sources[name])
        at = known.table.index.get_indexer(images)
        if (at < 0).any():
            missing = images[int(np.argmin(at))]
            raise InputError(f"{known.stores[0].path}: lacks the training image {missing}")
        found.append(_Some(known, at))
    return Training(images, *found)


# ---- what is written --------------------------------------------------------------------


def _header(kind, options, headers, decoder, drawn, made_by):
    """What holds for all pictures, with all that is to be said of where they come from."""
    said = {flag for header in headers.values() for flag in header.get("flags", ())}
    said |= {"random_weights"} if drawn else set()
    first = next(iter(headers.values()))
    return {
        "what": "picture",
        "axes": 3,
        "modality": "photograph",
        "unit": "sRGB",
        "decoder": kind,
        "seed": options.seed,
        **{key: first.get(key) for key in ALIKE},
        "of": {
            option: header.get("target") or {"decoder": header["decoder"], "of": header["of"]}
            for option, header in headers.items()
        },
        **decoder.facts,
        "flags": flags.ordered(said),
        "simulated": "simulated" in said,
        "made_by": made_by,
    }
