"""Signs people in with a browser, and keeps their sessions."""
