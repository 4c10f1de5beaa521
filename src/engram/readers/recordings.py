"""Opening a recording with MNE: what it warns of is said or refused, its errors are told apart."""

import ast
import contextlib
import importlib.util
import logging
import re
import warnings
from pathlib import Path

import mne
import numpy as np

from engram.errors import InputError
from engram.readers import claims, guards

#: Formats that say of each channel what it is; the others call every channel EEG.
TYPED = (".fif", ".gz", ".ds", ".mff")
EDF = (".edf", ".bdf")
ENCODED = (".set", ".eeg", ".vhdr", ".ahdr")  # whose text may be in an encoding that is to be said
MAGIC = {".edf": b"0       ", ".bdf": b"\xffBIOSEMI"}

#: Warnings after which values, times or rates would be made up.
REFUSED = {
    "Scaling factor will not be defined": "the digital minimum and maximum of a channel are equal, "
    "so that its values cannot be scaled",
    "Physical range is not defined": "the physical minimum and maximum of a channel are equal, so "
    "that its values cannot be scaled",
    "Header information is incorrect for record length": "a record lasts 0 s, so that the sampling "
    "rate is unknown",
    "FIF raw buffer could not be read": "part of the data cannot be read",
    "not recognized, not scaling": "the unit of a channel is not known to the reader",
    "contained multiple sample rates": "the channels have different sampling rates",
    "header file do not match! sfreq": "the header states two sampling rates",
    "Default channel names are chosen": "the file of channel names (.21E) is missing or "
    "damaged, so that they are made up",
    "Missing header in marker file": "the file of markers is none, so that events would be lost",
    "got unparsable": "the file of markers is none, so that events would be lost",
    "Could not decode log": "text is in another encoding than UTF-8 or, if given, "
    "`encoding` of the dataset",
}

#: Warnings of what is put right or said better elsewhere, and of the name of a file.
RIGHTED = (
    "Channel names are not unique",
    "The data contains 'boundary' events",
    "does not conform to MNE naming conventions",
    "Number of records from the header does not match",
)

#: Warnings about programs, not about a recording.
OF_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)

#: Files that name the others of their recording, and what those end in.
HEADERS = (".vhdr", ".ahdr", ".set", ".lay")
NAMED = (".eeg", ".dat", ".avg", ".seg", ".vmrk", ".amrk", ".fdt")

#: Least and most samples per second of any recording, Hz.
RATES = (1e-3, 1e7)

#: Packages that formats need, by their ending, where MNE hides which one is missing.
PACKAGES = {".cnt": "antio", ".dat": "curryreader"}


def opened(path, encoding=None, **how):
    """Open a recording; its samples are not read yet.

    Args:
        path: of the file.
        encoding: of its text, for readers that ask for it.
        how: further arguments of MNE's reader.

    Returns:
        `mne.io.BaseRaw`, and what was warned of, for `sorted_out`.

    Raises:
        InputError: it cannot be read, with advice that suits the cause.
    """
    suffix, noticed = Path(path).suffix.lower(), []
    _refuse_other_ending(path, suffix)
    try:
        claims.refuse(path)
        with heard(noticed):
            raw = _read_raw(path, suffix, **_arguments(suffix, encoding), **how)
        _refuse_lies(path, raw)
    except InputError:
        raise
    except Exception as error:  # MNE's readers raise whatever a broken file makes them
        raise InputError(f"{path}: {_cause(path, suffix, error)}") from None
    return raw, noticed


def _refuse_other_ending(path, suffix):
    """MNE would take the bytes of one format for those of the other."""
    if suffix in EDF and Path(path).is_file():
        with open(path, "rb") as file:
            start = file.read(8)
        for other in EDF:
            if other != suffix and start == MAGIC[other]:
                raise InputError(f"{path}: holds {other[1:].upper()}; let its name end in {other}")


def _refuse_lies(path, raw):
    """Refuse what is read from elsewhere, and clocks and lengths that no recording has."""
    here = Path(path).absolute().parent
    for file in map(Path, filter(None, raw.filenames)):
        if ".." in file.parts or not file.absolute().is_relative_to(here):
            raise InputError(f"{path}: {guards.elsewhere(file)}")
    rate = raw.info["sfreq"]
    if not RATES[0] <= rate <= RATES[1]:  # nor NaN
        raise ValueError(f"it says {rate:g} samples per second")
    if not np.isfinite(raw._cals).all():
        raise ValueError("the scale of a channel is no finite number")
    shape = (len(raw.ch_names), raw.n_times)
    if raw.n_times < 1 or (raw.preload and raw._data.shape != shape):
        held = f", but holds {raw._data.shape}" if raw.preload else ""
        raise ValueError(f"its header promises channels and samples {shape}{held}")
    raw.get_channel_types()  # raises where one has a type that there is not
    _refuse_more(raw, 1)


def _refuse_more(raw, channels):
    claims.refuse_values(channels * raw.n_times, [Path(one) for one in raw.filenames if one])


def _read_raw(path, suffix, **how):
    with guards.guarded(path):
        try:
            return mne.io.read_raw(path, verbose="warning", **how)
        except TypeError as error:
            if suffix != ".set" or "ch_names" not in str(error):
                raise
        with guards.single_values():
            return mne.io.read_raw(path, verbose="warning", **how)


def read(path, raw, keys):
    """Samples of some channels.

    Returns:
        float64 (channel, time), in what MNE makes of their unit; and what was warned of.

    Raises:
        InputError: the file is shorter than its header says or otherwise damaged.
    """
    noticed = []
    try:
        _refuse_more(raw, len(keys))
        with heard(noticed):
            at = [raw.ch_names.index(key) for key in keys]  # a name may be that of a kind, "eeg"
            data = raw.get_data(picks=at, verbose="warning")
    except Exception as error:  # so do they while they read samples
        raise InputError(
            f"{path}: its samples cannot be read ({_line(error)}); the file is cut off or damaged: "
            "copy it again, or take it off the manifest"
        ) from None
    return data, noticed


def _arguments(suffix, encoding):
    if suffix in (".vhdr", ".ahdr"):  # so are markers, whose header MNE reads in one encoding only
        return {"overrides": {"marker_fname": False}}
    if encoding and suffix == ".set":
        return {"uint16_codec": encoding}
    if encoding and suffix == ".eeg":
        return {"encoding": encoding}
    return {}


@contextlib.contextmanager
def heard(noticed):
    """Collect warnings of Python and of MNE's log, as text, once each."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: noticed.append(record.getMessage())
    logger = logging.getLogger("mne")
    silent, logger.handlers = logger.handlers, [handler]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        logger.handlers = silent
        noticed += [str(one.message) for one in caught if not issubclass(one.category, OF_CODE)]


def sorted_out(path, noticed) -> list[str]:
    """What is to be said of the warnings.

    Raises:
        InputError: one of them means that values, times or rates are made up.
    """
    lines = dict.fromkeys(re.sub(r"\s+", " ", text).strip() for text in noticed)
    for line in lines:
        for words, meaning in REFUSED.items():
            if words in line:
                raise InputError(
                    f"{path}: {meaning} (MNE: {line}); correct the header, leave the channel out, "
                    "or take the file off the manifest"
                )
    return [f"MNE: {line}" for line in lines if not any(words in line for words in RIGHTED)]


def doubled(noticed) -> set[str]:
    """Labels that several channels have, to which MNE added running numbers."""
    found = set()
    for text in noticed:
        names = re.search(r"found duplicates for: (\{.*?\})\. Applying", text, re.DOTALL)
        found |= ast.literal_eval(names[1]) if names else set()
    return found


def _line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _cause(path, suffix, error):
    """What is wrong, and what to do about just that."""
    text, line = str(error), _line(error)
    headers = [header for header in map(Path(path).with_suffix, HEADERS) if header.exists()]
    if headers and suffix in NAMED:
        return f"not the file by which MNE reads it ({line}); list {headers[0].name} instead"
    package = re.search(r"pip install (\S+)", text) or (
        isinstance(error, ImportError) and re.search(r"No module named '(\w+)", text)
    )
    if package:
        return (
            f"MNE reads this format with a package that is not installed; pip install {package[1]}"
        )
    if "any of the possible readers" in text and not _installed(PACKAGES.get(suffix)):
        return (
            f"not a recording that MNE can read as it is installed; if the file comes from a "
            f"program whose format needs it, pip install {PACKAGES[suffix]}; else correct the file"
        )
    if isinstance(error, FileNotFoundError) or "does not exist" in text:
        return f"a file is missing ({line}); put it beside the others under the name it had"
    if Path(path).suffix != suffix and "extension" in text:
        return f"MNE wants its name to end in {suffix}, in small letters; rename it"
    undecoded = isinstance(error, UnicodeError) or "can't decode" in text or "too small" in text
    if undecoded and suffix in ENCODED:
        return f"text in another encoding ({line}); say which in `encoding` of the dataset"
    if "Unsupported file type" in text or "files are supported" in text:
        return f"not the ending of a format that MNE reads ({line}); list the file that names it"
    if "has no associated original unit" in text:
        return f"two channels share a name ({line}); give each a name of its own in the header"
    if "number of trials" in text or "No raw data in" in text:
        return (
            f"not a continuous recording ({line}); if it holds epochs, use a dataset of kind "
            "stimulus_epochs"
        )
    return (
        f"not a recording that MNE can read ({line}); the file is damaged, cut off, or of another "
        "format than its ending says: copy it again, or take it off the manifest"
    )


def _installed(package):
    return package is None or importlib.util.find_spec(package) is not None
