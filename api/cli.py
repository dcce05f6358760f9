"""Starts the command line: entry point of the console script `taximeter`.

The plain install is the client alone, yet it carries this script: so nothing but the standard
library is imported before we know that the command line's own packages are there.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit 2 with one line when the extra that it needs is not installed."""
    try:
        from taximeter.api.commands import group
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "taximeter":
            raise
        sys.stderr.write(
            f"taximeter: the command line needs the package '{error.name}', which the plain "
            "install leaves out; install the extra 'server' of the clone or the wheel: "
            "pip install 'PATH[server]'\n"
        )
        sys.exit(2)
    group(prog_name="taximeter")
