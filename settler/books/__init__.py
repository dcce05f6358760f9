"""What everything in the settler stands on: both stores, their settings and the watermarks."""
