"""The one error a person is meant to read."""


class UserError(Exception):
    """Bad input or usage: names the file or option that is wrong and what to do about it.

    The command line prints it as one `error: …` line and exits with code 2; a service answers 4xx.
    Anything else that escapes is a fault of ours and keeps its traceback.
    """
