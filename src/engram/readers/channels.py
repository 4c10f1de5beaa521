"""Names and kinds of the channels of a recording.

Many formats know no kinds, so that ECG and status stand beside the EEG as if they were EEG; and one
electrode has many names: Fp1, FP1, EEG Fp1-REF, Fp1., POL Fp1; T3 is T7.
"""

import re
from dataclasses import dataclass, replace

import mne

from engram.errors import InputError

#: Electrodes by name in upper case: the 10-05 system as MNE has it, with T3 to T6, earlobes and
#: mastoids; and others that caps and clinics use.
ELECTRODES = {
    name.upper(): name
    for name in (
        *mne.channels.make_standard_montage("colin27_1005").ch_names,
        *("Nz", "O9", "O10", "T1", "T2", "SP1", "SP2", "CB1", "CB2"),
    )
}
#: Names of the 10-20 system that the 10-10 system replaced.
OLDER = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
#: Of all channels, behind the name of an electrode: linked ears, an average, ground.
REFERENCES = r"REF|C?LE|LER|A1\+?A2|M1\+?M2|AR|AVG?|CAR|G\d+|GND"
ORDER = {name: i for i, name in enumerate(ELECTRODES.values())}

#: Kinds by a word of the name, the first that fits; a word is a run of letters.
WORDS = {
    "ecg": r"\w*E[CK]G\w*",
    "eog": r"\w*EOG\w*|[HV]EO[GLRUDB]*|LOC|ROC|EYE\w*|PUPIL\w*|GAZE\w*|BLINK\w*",
    "emg": r"\w*EMG\w*|CHIN|SUBMENTAL|MENTALIS|TIB\w*|[LR]?LEG\w*|[LR]AT|MASSETER",
    "resp": r"RESP\w*|\w*FLOW|THOR\w*|ABD\w*|NASAL|ORONASAL|CANNULA|CHEST|EFFORT|SNOR\w*|PTAF|RIP|"
    r"PNEUM\w*|CPAP|ETCO|CAPNO\w*",
    "temperature": r"TEMP\w*",
    "oximetry": r"\w*SAO|\w*SPO|OSAT|SAT|PULSE\w*|PLETH?\w*|PPG|OXI\w*|HR|BPM|HEART\w*|PR|BVP",
    "gsr": r"GSR\w*|EDA\w*|SCL|SCR",
    "stim": r"STATUS|TRIG\w*|MARKERS?|EVENTS?|STI|STIM\w*|PHOTO\w*|PHOTIC|BUTTON\w*|SYNC\w*|DIODE|"
    r"TTL|ANNOTATIONS?|DIGITAL|MARK|DIN|MKR|RESPONSE",
    "motion": r"ACC\w*|GYRO?\w*|MAGN?\w*|QUAT\w*|POSITION|BODY\w*|MOTION|ACTI\w*",
    "misc": r"AUX\w*|EXG|EXT|DC|MISC\w*|BIP|ERG|COUNTER|INTERPOLATED|RAW|CQ|BATTERY|LIGHT|SOUND|"
    r"MIC|AUDIO|VIDEO|TIMESTAMPS?|TIME|STAGE|HYPNO\w*|NOISE|IMP\w*|IBI|BURSTS|SUPPR|VOLTAGE|LUX|REF",
}
PATTERNS = {kind: re.compile(words, re.IGNORECASE) for kind, words in WORDS.items()}

#: Kinds that a dataset can say.
KINDS = ("eeg", *WORDS, "ref", "bio")

#: Caps with names of their own, in which A1 is no earlobe: many names of the first form are such a
#: cap, and then all names of the second are electrodes. BioSemi has A1 to H32, EGI E1 to E257.
CAPS = {r"A\d{1,2}": r"[A-H]\d{1,2}", r"E\d{1,3}": r"E\d{1,3}"}
MANY = 8

#: Kinds of BIDS whose names differ from ours; others are the same in lower case.
BIDS_KINDS = {"heog": "eog", "veog": "eog", "trig": "stim"}


@dataclass(frozen=True)
class Channel:
    """One channel of a file.

    Attributes:
        key: by which MNE knows it, unique in the file.
        label: in the file, or what `rename` makes of it; two channels may share it.
        name: that of the electrode, equal whatever the file's spelling.
        kind: "eeg", "eog", "ecg", ..., or "unknown" where the name says nothing.
        bad: marked bad by the file or the table beside it.
    """

    key: str
    label: str
    name: str
    kind: str
    bad: bool = False

    def means(self, name) -> bool:
        """Whether a name in the configuration is that of this channel."""
        return name in (self.key, self.label, self.name) or electrode(name) == self.name


def electrode(label, cap=False) -> str:
    """One name for every spelling of an electrode, or of a pair: "EEG FP1-REF" is "Fp1".

    Args:
        label: as in the file.
        cap: whether the file holds a cap whose names are not those of the 10-20 system, so that
            a name is left as it is but for prefix and blanks.
    """
    bare = _bare(label)
    if cap:
        return bare
    parts = re.split(r"\s*[-–:/]\s*", bare)
    known = [_electrode(part) for part in parts]
    return "-".join(known) if all(known) else bare


def _electrode(part):
    found = ELECTRODES.get(part.upper())
    return OLDER.get(found, found)


def _bare(label):
    """Without a prefix for the kind, a suffix for the common reference, dots and outer blanks."""
    text = re.sub(r"\s+", " ", label.replace("$", "")).strip(" .")
    text = re.sub(r"^(?:POL|EEG)[ _:-]+(?=\S)", "", text, flags=re.IGNORECASE)
    text = re.sub(rf"\s*[ _-]\s*(?:{REFERENCES})$", "", text, flags=re.IGNORECASE)
    return text.strip(" .")


def is_cap(labels) -> bool:
    """Whether the channels carry the names of a cap such as BioSemi's A1 to D32, EGI's E1."""
    names = [_bare(label).upper() for label in labels]
    return any(sum(bool(re.fullmatch(cap, name)) for name in names) >= MANY for cap in CAPS)


def kind(label, cap=False) -> str:
    """The kind that a name tells: "eeg", "ecg", ..., or "unknown"."""
    bare = _bare(label)
    if cap and any(re.fullmatch(form, bare.upper()) for form in CAPS.values()):
        return "eeg"
    parts = re.split(r"\s*[-–:/]\s*", bare)
    if all(_electrode(part) for part in parts):
        return "eeg"
    words = re.findall(r"[^\W\d_]+", bare)
    for name, pattern in PATTERNS.items():
        if any(pattern.fullmatch(word) for word in words):
            return name
    if re.fullmatch(r"E[12]", parts[0], re.IGNORECASE):  # left and right eye of a sleep recording
        return "eog"
    if re.match(r"EEG(?![A-Z])", label.strip(), re.IGNORECASE):
        return "eeg"
    if re.fullmatch(r"[XYZ]", bare, re.IGNORECASE):
        return "motion"
    return "unknown"


def listed(raw, *, doubled=(), typed=False, bids=None, types=None, rename=None):
    """The channels of a file.

    Args:
        raw: `mne.io.BaseRaw`.
        doubled: labels to which MNE added running numbers, as several channels have them.
        typed: whether the format says of each channel what it is; an unknown name is then what
            the format says.
        bids: table of a `channels.tsv`, by label; or None.
        types, rename: options of the dataset, by label; or None.

    Returns:
        list of Channel in the order of the file.

    Raises:
        InputError: `types` names a kind that there is not.
    """
    for name, said in (types or {}).items():
        if said.lower() not in KINDS:
            raise InputError(f"types: {name} is {said!r}, which is none of {', '.join(KINDS)}")
    labels = [_label(key, doubled, rename or {}) for key in raw.ch_names]
    cap = is_cap(labels)
    given = _Given(types or {}, bids or {}, cap)
    found = []
    for i, (key, label) in enumerate(zip(raw.ch_names, labels, strict=True)):
        this = mne.channel_type(raw.info, i)
        if this == "eeg" or not typed:
            guess = kind(label, cap)
            free = this in ("eeg", "misc")
            this = guess if free and not (typed and guess == "unknown") else this
        found.append(
            Channel(
                key=key,
                label=label,
                name=electrode(label, cap),
                kind=given.kind(key, label) or this,
                bad=key in raw.info["bads"] or given.bad(label),
            )
        )
    return found


def _label(key, doubled, rename):
    label = next((d for d in doubled if re.fullmatch(re.escape(d) + r"-\w", key)), key)
    new = rename.get(key, rename.get(label))
    return new if new is not None else label


class _Given:
    """What the options and the table beside a file say of its channels."""

    def __init__(self, types, bids, cap):
        self.types, self.cap = types, cap
        self.bids = {electrode(label, cap): facts for label, facts in bids.items()}
        self.named = {electrode(label, cap): kind for label, kind in types.items()}

    def kind(self, key, label):
        name = electrode(label, self.cap)
        for given in (self.types.get(key), self.types.get(label), self.named.get(name)):
            if given:
                return given.lower()
        beside = self.bids.get(name, {}).get("type", "").lower()
        return BIDS_KINDS.get(beside, beside) if beside not in ("", "n/a") else None

    def bad(self, label):
        facts = self.bids.get(electrode(label, self.cap), {})
        return facts.get("status", "").lower() == "bad"


def matching(channels, wanted) -> list[Channel]:
    """Those that a name of the configuration means: the key, the label, or the same electrode."""
    for found in (
        [c for c in channels if c.key == wanted],
        [c for c in channels if c.label == wanted],
        [c for c in channels if c.name == electrode(wanted, is_cap(x.label for x in channels))],
    ):
        if found:
            return [replace(channel, name=wanted) for channel in found]
    return []


def asked(path, channels, names) -> list[Channel]:
    """The channels of these names, in that order and called so; several where a label is doubled.

    Raises:
        InputError: there is none of that name.
    """
    found = [matching(channels, name) for name in names]
    missing = [name for name, these in zip(names, found, strict=True) if not these]
    if missing:
        there = ", ".join(channel.key for channel in channels)
        raise InputError(f"{path}: no channel {', '.join(missing)}; there is {there}")
    return [channel for these in found for channel in these]


def ordered(channels) -> list[Channel]:
    """By name, from the front of the head to its back, so that files in any order agree."""
    cap = is_cap(channel.label for channel in channels)
    return sorted(channels, key=lambda c: (0 if cap else _place(c.name), _numbered(c.name)))


def _place(name):
    return ORDER.get(name.split("-")[0], len(ORDER))


def _numbered(name):
    """For sorting: E2 comes before E10."""
    return [(part.zfill(6) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]
