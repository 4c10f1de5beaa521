from engram import disk


def refuse_what_is_not_writable(paths):
    try:
        disk.check_writable(paths)
    except InputError as error:
        sys.exit(f"error: {error}")


def refuse_outputs_not_writable():
    """End the run where a job could not write; Snakemake itself would fail there at one of them."""
    jobs = list(workflow.dag.needrun_jobs())
    folders = {os.path.dirname(path) for job in jobs for path in job.output}
    rewritten = {path for job in jobs for path in (*job.log, job.benchmark) if path}
    refuse_what_is_not_writable(folders | rewritten)


def say_what_was_killed(logs):
    """A line for each rule of which a job was killed here, which leaves no word in its log."""
    text = "".join(Path(log).read_text("utf-8", errors="replace") for log in logs)
    killed = re.findall(
        r"(?:with <Signals.SIGKILL: 9>|exit status 137)\..*?^Error in rule (\w+)",
        text,
        re.S | re.M,
    )
    for name in dict.fromkeys(killed):
        print(
            f"error: a job of rule {name} was killed, as the system does where memory runs out; "
            "let all jobs together ask for no more than there is (`--resources mem_mb=N`), run "
            "fewer at a time (`--cores`), or make smaller batches (`batch_size`)",
            file=sys.stderr,
        )


if "{" in str(ROOT) or "}" in str(ROOT):
    sys.exit(
        f"error: {ROOT}: Snakemake takes what stands in braces in the path of a workflow for a "
        "wildcard; move the checkout to a path without"
    )
made = [f".snakemake/{name}" for name in ("locks", "metadata", "incomplete")]
if workflow.output_settings.dryrun:  # writes nothing, but they have to be there
    made = [folder for folder in made if not os.path.isdir(folder)]
if workflow.is_main_process:
    refuse_what_is_not_writable(made)
