"""Resource names as people type them → as the protos have them. What is no short name is left as it is: the server
says what is wrong with it.

    d-0123456789abcdef → datasets/d-0123456789abcdef        sentiment   → models/sentiment
    nightly            → trainingJobs/nightly               sentiment@3 → models/sentiment/versions/3
                                                            sentiment@production → models/sentiment/aliases/production
"""


def dataset(typed: str) -> str:
    return _in("datasets/", typed)


def job(typed: str) -> str:
    return _in("trainingJobs/", typed)


def model(typed: str) -> str:
    """A model, or one of its versions or aliases."""
    name, at, which = typed.partition("@")
    if not at or "/" in typed:
        return _in("models/", typed)
    return f"models/{name}/{'versions' if which.isdigit() else 'aliases'}/{which}"


def _in(collection: str, typed: str) -> str:
    return typed if "/" in typed or not typed else collection + typed
