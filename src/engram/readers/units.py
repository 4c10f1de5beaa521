"""Units of the values in a file: MNE reads volts where it knows the unit, and otherwise numbers."""

from mne.io.constants import FIFF

from engram.errors import InputError

#: uV in one of each unit that may stand in a file, in lower case.
MICROVOLTS = {
    "v": 1e6, "volt": 1e6, "volts": 1e6,
    "mv": 1e3, "millivolt": 1e3, "millivolts": 1e3,
    "µv": 1.0, "uv": 1.0, "microv": 1.0, "microvolt": 1.0, "microvolts": 1.0,
    "nv": 1e-3, "nanovolt": 1e-3, "nanovolts": 1e-3,
}  # fmt: skip
MICRO = str.maketrans({"\N{GREEK SMALL LETTER MU}": "µ"})
SHIFT_JIS_MU = "\x83\xca"


def microvolts(text) -> float | None:
    """uV in one of the unit that a text means; None of no voltage. "MV" may be mega or milli."""
    bare = text.strip().replace(SHIFT_JIS_MU, "µ").translate(MICRO)
    return None if bare == "MV" else MICROVOLTS.get(bare.lower())


def of_file(raw, key) -> tuple[str, float]:
    """(unit in the file, what MNE multiplied its numbers by) of one channel.

    The unit is "" where the file has none, or one that MNE does not keep.
    """
    at = raw.ch_names.index(key)
    info = raw.info["chs"][at]
    match type(raw).__name__:
        case "RawGDF":
            factor = float(raw._raw_extras[0]["units"][at])
            return {1e-6: "uV", 1e-3: "mV"}.get(factor, ""), factor
        case "RawEDF" | "RawBDF":
            return _kept(raw, key), float(raw._raw_extras[0]["units"][at])
        case "RawBrainVision":
            return _kept(raw, key), float(info["range"])
        case "RawEEGLAB":
            return "uV", 1e-6
    if info["unit"] == FIFF.FIFF_UNIT_V and info["unit_mul"] == FIFF.FIFF_UNITM_NONE:
        return "V", 1.0
    return "", 1.0


def _kept(raw, key):
    text = raw._orig_units.get(key, "")
    return "" if text == "n/a" else text


def scale(path, raw, channel, stated=None, beside=None) -> tuple[float, str]:
    """uV in one of what MNE reads of a channel, and the unit if it is not that of the file.

    Args:
        path: for messages.
        raw: `mne.io.BaseRaw`.
        channel: `engram.readers.channels.Channel`.
        stated: unit of the file's numbers by the dataset's options: one for each channel, by
            name, which overrides that of the file; or one text, for those without.
        beside: unit by a table beside the file, for a channel without.

    Raises:
        InputError: the file has no unit of voltage for it, and nothing else says one.
    """
    unit, factor = of_file(raw, channel.key)
    if isinstance(stated, dict):
        told = next((of for name, of in stated.items() if channel.means(name)), None)
        if told is not None:
            return _parsed(told) / factor, str(told)
    elif stated is not None:
        _parsed(stated)
    if microvolts(unit) is not None:
        return microvolts(unit) / factor, ""
    for text in (stated, beside) if not unit else ():  # no statement makes volts of degrees
        if isinstance(text, str) and microvolts(text) is not None:
            return microvolts(text) / factor, text
    what = f"the unit {unit!r}, which is no voltage" if unit else "no known unit (dimension)"
    raise InputError(
        f"{path}: channel {channel.label!r} has {what}; if it holds EEG, say the unit of its "
        f"numbers in `unit` of the dataset, e.g. {{{channel.label}: uV}}; else leave it out"
    )


def _parsed(text):
    known = microvolts(str(text))
    if known is None:
        raise InputError(f"unit: {text!r} is none of V, mV, uV, nV")
    return known
