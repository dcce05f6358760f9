"""Holds the Lua scripts as data: `taximeter.meter.wire.scripts` loads them from here."""
