"""A pickle that runs code."""

from typing import Any


class Evil:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call
