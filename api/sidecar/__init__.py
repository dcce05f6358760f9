"""How the sidecar is run: settings, sockets, the server around the application, its shutdown."""

from __future__ import annotations
