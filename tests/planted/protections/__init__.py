"""Bugs that take out the protections which docs/reliability.md promises, one or more for each row of its tables."""

from tests.planted.protections.damage import DAMAGE
from tests.planted.protections.files import FILES
from tests.planted.protections.memory import MEMORY
from tests.planted.protections.numbers import NUMBERS
from tests.planted.protections.restarts import RESTARTS
from tests.planted.protections.secrets import SECRETS
from tests.planted.protections.servers import SERVERS
from tests.planted.protections.starts import STARTS
from tests.planted.protections.upkeep import UPKEEP

PROTECTIONS = (*SERVERS, *FILES, *NUMBERS, *DAMAGE, *MEMORY, *RESTARTS, *UPKEEP, *SECRETS, *STARTS)
