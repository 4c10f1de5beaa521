"""EEGLAB's .set in MATLAB's v7.3, which is HDF5: what `save -v7.3` writes of it."""

import h5py
import numpy as np


def write_set73(path, data, sfreq, names, marks):
    """data (channel, time), uV; marks (type, latency, duration) in samples from 1."""
    with h5py.File(path, "w", userblock_size=512) as file:
        eeg, values = file.create_group("EEG"), file.create_group("#refs#")
        eeg.attrs["MATLAB_class"] = np.bytes_("struct")
        numbers = {
            "nbchan": len(names), "trials": 1, "pnts": data.shape[1], "srate": sfreq, "xmin": 0,
            "xmax": (data.shape[1] - 1) / sfreq, "data": np.asarray(data).T,
        }  # fmt: skip
        for name, value in numbers.items():
            _matrix(eeg, name, value)
        _text(eeg, "setname", "x")
        _structs(eeg, values, "chanlocs", {"labels": names})
        if marks:
            columns = zip(*marks, strict=True)
            columns = dict(zip(("type", "latency", "duration"), columns, strict=True))
            _structs(eeg, values, "event", columns)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def _matrix(group, name, value):
    made = group.create_dataset(name, data=np.atleast_2d(np.asarray(value, float)))
    made.attrs["MATLAB_class"] = np.bytes_("double")
    return made


def _text(group, name, value):
    made = group.create_dataset(name, data=np.array([[ord(c)] for c in value], "u2"))
    made.attrs["MATLAB_class"], made.attrs["MATLAB_int_decode"] = np.bytes_("char"), 2
    return made


def _structs(eeg, values, name, columns):
    group = eeg.create_group(name)
    group.attrs["MATLAB_class"] = np.bytes_("struct")
    for field, column in columns.items():
        made = group.create_dataset(field, (len(column), 1), h5py.ref_dtype)
        for i, value in enumerate(column):
            write = _text if isinstance(value, str) else _matrix
            made[i, 0] = write(values, f"{name}{field}{i}", value).ref
