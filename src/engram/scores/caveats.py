"""What a reader has to know before believing a score, one sentence each."""

MANY = 0.5  # share of excluded windows worth a warning
CONTROL = 0.025  # p below which the control trained on moved labels is not at chance
TIME = 0.1  # R^2 above which the time in the scan is readable


def caveats(result) -> list[str]:
    """Sentences about a finished scores dict.

    Args:
        result: as `engram.scores.evaluation` writes it, before "warnings" is filled.
    """
    return [*_split(result), *_labels(result), *_statistics(result), *_inputs(result)]


def _split(result):
    if "leaks" in result["flags"]:
        yield (
            "The split leaks: windows that share data or scans with test windows were trained on, "
            "so these scores are inflated and say nothing about new recordings."
        )
    if "circular" in result["flags"]:
        yield (
            "The labels were derived from the same EEG that is the input: the score says how well "
            "the features recover the rule, not how well they measure vigilance."
        )
    sample = result["sample"]
    excluded = sum(sample["excluded"].values())
    if excluded > MANY * (excluded + sample["windows"]):
        yield f"{excluded} of {excluded + sample['windows']} windows were excluded."


def _labels(result):
    sample = result["sample"]
    constant = sample["constant_scans"]
    if constant:
        yield (
            f"The label never changes in {len(constant)} of {sample['scans']} scans "
            f"({_listed(constant)}): recognising the scan is enough to score there."
        )
    if result["pooled"]:
        yield (
            "No subject has windows of two classes: scores that need both are pooled over "
            "subjects and mix differences within and between them."
        )
    elif undefined := result["undefined"]:
        yield (
            f"{len(undefined)} of {sample['subjects']} subjects have windows of one class "
            f"only ({_listed(undefined)}) and are left out of scores that need two."
        )


def _statistics(result):
    sample, first = result["sample"], result["metrics"][0]
    if sample["subjects"] < 10:
        yield (
            f"Only {sample['subjects']} subject{'s' * (sample['subjects'] > 1)}: intervals are "
            "wide and rest on Student's t where subjects can be averaged."
        )
    if result["p_min"] > 0.05:
        yield (
            f"The labels allow few distinct shifts: no p below {result['p_min']:.2g} is possible."
        )
    control = first["control_p"]
    if control is not None and control <= CONTROL:
        yield (
            f"The control trained on moved labels scores {first['control']:.2f} balanced accuracy "
            f"(p = {control:.2g}), above chance: something other than the labels leaks."
        )
    shared = result["baseline_rows"]
    if shared is not None and shared < sample["windows"]:
        yield (
            f"The comparison with {result['baseline']} rests on the {shared} of "
            f"{sample['windows']} windows that both predict."
        )


def _inputs(result):
    probes = result["probes"]
    if not probes:
        return
    if probes["duplicate_windows"]:
        yield f"{probes['duplicate_windows']} windows are exact copies of other windows."
    identity, time = probes["subject_identity"], probes["time_in_scan"]
    known = not result["generalises_to"].startswith("new subjects")
    if known and (identity["balanced_accuracy"] or 0) > 2 * (identity["chance"] or 1):
        yield (
            f"The features tell subjects apart ({identity['balanced_accuracy']:.2f} balanced "
            f"accuracy, chance {identity['chance']:.2f}) and training has seen the test subjects."
        )
    if (time["r2"] or 0) > TIME:
        yield (
            f"The features tell the time within the scan (R² {time['r2']:.2f}): drift can stand in "
            "for the label where labels follow time."
        )


def _listed(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
