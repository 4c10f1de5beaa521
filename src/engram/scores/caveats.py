"""What a reader has to know before believing a score, one sentence each."""

MANY = 0.5  # share of excluded windows worth a warning
LEVEL = 0.05  # p up to which a score is called better than chance
CONTROL = 0.025  # p below which the control trained on moved labels is not at chance
UNLIKE = 0.05  # share of rows unlike those of training that is worth a warning
TIME = 0.1  # R^2 above which the time in the scan is readable


def control_as_high(result) -> bool:
    """Whether the control scores as high as the experiment, although p says yes.

    As high: what the score is above it may be nothing, its interval paired by subject holds 0; and
    of what the score is above chance, the control has half or more. A control is one draw from the
    null: with p at 0.05 one in six has half by luck, almost none all of it.
    """
    first, above = result["metrics"][0], result.get("over_control")
    if not above or above["low"] is None or first["p"] is None or first["p"] > LEVEL:
        return False
    half = (first["value"] + first["chance"]) / 2
    return above["low"] <= 0 and first["control"] >= half


def caveats(result) -> list[str]:
    """Sentences about a finished scores dict.

    Args:
        result: as `engram.scores.evaluation` writes it, before "warnings" is filled.
    """
    told = [*of_split(result), *_labels(result), *_statistics(result)]
    return [*told, *of_inputs(result), *of_rivals(result)]


def of_split(result):
    """Of the flags, and of windows that were left out."""
    if "leaks" in result["flags"]:
        yield (
            "The split leaks: windows that share data or scans with test windows were trained on, "
            "so these scores are inflated and say nothing about new recordings."
        )
    if "recording" in result["flags"]:
        yield (
            "Every scan has one label, and training has seen each scan: to recognise the recording "
            "is enough. The scores have no interval, for they say nothing about new recordings."
        )
    if "trained_on" in result["flags"]:
        yield (
            f"The model was trained on {listed(result['applied']['remembered'])}: the scores say "
            "what it remembers, not what it does on new data."
        )
    if "seen" in result["flags"]:
        yield (
            "The weights of the backbone were pretrained on subjects that are tested here, without "
            "their labels: the scores need not hold for new subjects."
        )
    if "circular" in result["flags"]:
        yield (
            "The labels were derived from the same EEG that is the input: the score says how well "
            "the features recover the rule, not how well they measure vigilance."
        )
    if "applied" in result:
        yield from _applied(result["applied"])
    sample = result["sample"]
    excluded = sum(sample["excluded"].values())
    if excluded > MANY * (excluded + sample["windows"]):
        yield f"{excluded} of {excluded + sample['windows']} windows were excluded."


def _applied(applied):
    """Of a model that was trained on other data."""
    yield (
        f"Nothing was trained: the model of {applied['model']} was fitted on {applied['dataset']} "
        f"({applied['subjects']} subjects), beside whose own scores the control stands."
    )
    share = applied["unlike"]["share"]
    if share > UNLIKE:
        yield (
            f"{100 * share:.0f} % of the rows are less like what the model was trained on than one "
            "row in a hundred of a new subject there: what it says of them is extrapolated."
        )
    if applied["labels"]:
        facts = [line["fact"] for line in applied["labels"]]
        yield f"The labels are defined otherwise than those of training, in {listed(facts)}."
    shares = applied.get("classes", {}).get("here", {})
    if absent := [name for name, value in shares.items() if not value]:
        yield (
            f"No row here is of class {listed(absent)}, which the model can name: scores are taken "
            "over the classes that occur."
        )


def _labels(result):
    sample = result["sample"]
    constant = sample["constant_scans"]
    if constant and not result["pooled"]:
        yield (
            f"The label never changes in {len(constant)} of {sample['scans']} scans "
            f"({listed(constant)}): recognising the scan is enough to score there."
        )
    if result["pooled"]:
        yield (
            "No subject has windows of two classes: what is predicted for a subject is averaged, "
            "and scores that need both classes are pooled over subjects, each counting once."
        )
    elif undefined := result["undefined"]:
        yield (
            f"{len(undefined)} of {sample['subjects']} subjects have windows of one class "
            f"only ({listed(undefined)}) and are left out of scores that need two."
        )


def _statistics(result):
    sample, first = result["sample"], result["metrics"][0]
    yield from of_few_subjects(sample["subjects"])
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
    if "control" in result["flags"]:
        yield (
            f"The control trained on moved labels scores {first['control']:.2f}, the labels as "
            f"they are {first['value']:.2f}: paired by subject the difference may be none, so that "
            f"p = {first['p']:.2g} is no reason to believe the score."
        )
    yield from of_baseline(result)


def of_few_subjects(subjects):
    """Of intervals over few subjects."""
    if subjects < 10:
        yield (
            f"Only {subjects} subject{'s' * (subjects > 1)}: intervals are "
            "wide and rest on Student's t where subjects can be averaged."
        )


def of_baseline(result):
    """Of windows that the baseline does not predict."""
    shared, windows = result["baseline_rows"], result["sample"]["windows"]
    if shared is not None and shared < windows:
        yield (
            f"The comparison with {result['baseline']} rests on the {shared} of "
            f"{windows} windows that both predict."
        )


def of_inputs(result):
    """Of what else the inputs know."""
    probes = result["probes"]
    if not probes:
        return
    if probes["duplicate_windows"]:
        yield f"{probes['duplicate_windows']} windows are exact copies of other windows."
    between = "different subjects or sides of a fold"
    yield from of_near_copies(probes["near_copies"], "rows", between, "recording")
    identity, time = probes["subject_identity"], probes["time_in_scan"]
    known = "applied" not in result and not result["generalises_to"].startswith("new subjects")
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


def of_rivals(result):
    """Of what scores as well without the inputs."""
    for rival in result["rivals"]:
        low, high = rival["difference_low"], rival["difference_high"]
        if low is not None and low <= 0:
            yield (
                f"{listed(rival['of']).capitalize()} alone, without the inputs, scores "
                f"{rival['value']:.2f}: that the experiment has more is not shown "
                f"({rival['difference']:+.2f}, {low:+.2f} to {high:+.2f})."
            )
        for name, rows in rival["empty"].items():
            yield f"{rows} rows lack {name}: the rival {rival['name']} takes the mean for them."


def of_near_copies(copies, what, between, thing):
    """Of what stands on two sides under two names, see `engram.measures.copies`."""
    if copies and copies["between"]:
        one, other = copies["examples"][0]
        yield (
            f"{copies['between']} pairs of {what} of {between} are nearly the same, such as {one} "
            f"and {other}: one {thing} under two names?"
        )


def listed(names):
    """At most five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
