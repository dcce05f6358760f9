"""The Lua scripts, as data: `taximeter.meter.scripts` loads them from here."""
