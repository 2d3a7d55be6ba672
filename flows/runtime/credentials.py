"""Credentials of MLflow and Prefect: moved out of addresses.

An address such as http://USER:PASSWORD@HOST is printed, logged and stored in many places, by this project and by the
tools that it calls. The credentials therefore move to the variables that MLflow and Prefect have for them.
"""

import os
import re
from collections.abc import MutableMapping
from urllib.parse import unquote, urlsplit, urlunsplit


def split_credentials(environment: MutableMapping[str, str] = os.environ) -> None:
    """Move user names and passwords from the addresses of MLflow and Prefect to variables of their own."""
    for variable in ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI"):
        if found := _take_user_info(environment, variable):
            environment["MLFLOW_TRACKING_USERNAME"], environment["MLFLOW_TRACKING_PASSWORD"] = found
    if found := _take_user_info(environment, "PREFECT_API_URL"):
        environment["PREFECT_API_AUTH_STRING"] = ":".join(found)


def _take_user_info(environment: MutableMapping[str, str], variable: str) -> tuple[str, str] | None:
    """Remove the user info of an http address from a variable; return user name and password, None without them."""
    address = environment.get(variable, "").strip()
    if not re.match(r"https?://[^/]*@", address):
        return None
    parts = urlsplit(address)
    user_info, _, host = parts.netloc.rpartition("@")
    environment[variable] = urlunsplit(parts._replace(netloc=host))
    user, _, password = user_info.partition(":")
    return unquote(user), unquote(password)
