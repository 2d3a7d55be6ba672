"""What can be wrong with a user's input. Each message is for the user: what, where, what to do."""


class UserError(ValueError):
    """Shown as one line, without a traceback."""


class ConfigError(UserError):
    """params.yaml is not usable; one line for each thing to mend."""


class DataError(UserError):
    """The data are missing, changed or do not fit."""


class TeacherError(UserError):
    """A teacher or generator cannot be had or does not fit."""


class PickleError(UserError):
    """A pickle is damaged, or asks for something that plain data do not need."""


class EvaluatorError(UserError):
    """The evaluator cannot be had."""


class CheckpointError(UserError):
    """A checkpoint is there but may not be used as it is."""
