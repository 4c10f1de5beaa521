"""Tasks: the questions that an experiment asks; a module each."""
