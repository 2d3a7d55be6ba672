"""Secrets, taken out of text that is printed, logged or stored."""

import os
import re

HIDDEN = "***"
# USER:PASSWORD@ in an address, also if the password has a slash in place of %2F; but not the port of HOST:5000/A@B.
USER_INFO = re.compile(r"(?<=://)(?:[^/\s:@]*:(?!\d+/)\S*@|[^/\s]*@)")
NAMES = re.compile(r"(TOKEN|PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|API_KEY)")  # in names of variables with secrets
SHORTEST = 8  # characters; a shorter value may be a part of an ordinary word


def redact(text: str) -> str:
    """Return a text without the user info of addresses, and without the secrets in this process's environment."""
    text = USER_INFO.sub(f"{HIDDEN}@", text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and NAMES.search(name) and not name.endswith("_FILE"):
            text = text.replace(value, HIDDEN)
    return text
