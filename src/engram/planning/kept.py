"""Answers that are asked for again and again."""

from functools import wraps


def kept(method):
    """A method whose answers an instance keeps: thousands of jobs ask the same of a plan."""

    @wraps(method)
    def asked(self, *arguments):
        answers = vars(self).setdefault(f"_{method.__name__}_answers", {})
        if arguments not in answers:
            answers[arguments] = method(self, *arguments)
        return answers[arguments]

    return asked
