"""What the processes of tests are forked with: all that our servers import, and the API's routes,
which are the same for every API.
"""

from __future__ import annotations

import gc

import taximeter.api.commands.api
import taximeter.api.commands.settler
import taximeter.api.commands.sidecar
import taximeter.api.commands.simulator  # noqa: F401
from taximeter.api.app import shared_routes

shared_routes()
gc.freeze()  # What all share is not looked through, hence not copied, by each.
