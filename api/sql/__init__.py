"""Loads the API's SQL: one mapping of named blocks per file of sql/."""

from __future__ import annotations

from taximeter.settler.books.named_sql import load_queries

IDENTITY = load_queries("identity", "taximeter.api")
SUBSCRIPTIONS = load_queries("subscriptions", "taximeter.api")
CREDITS = load_queries("credits", "taximeter.api")
MOVES = load_queries("moves", "taximeter.api")
USAGE = load_queries("usage", "taximeter.api")
USERS = load_queries("users", "taximeter.api")
DASHBOARDS = load_queries("dashboards", "taximeter.api")
IDEMPOTENCY = load_queries("idempotency", "taximeter.api")
PARTITIONS = load_queries("partitions", "taximeter.api")
DEMO = load_queries("demo", "taximeter.api")
KEYS = load_queries("keys", "taximeter.api")
LOGINS = load_queries("logins", "taximeter.api")
ORGANIZATIONS = load_queries("organizations", "taximeter.api")
CORRECTIONS = load_queries("corrections", "taximeter.api")
SYSTEM_KEYS = load_queries("system_keys", "taximeter.api")
ADMINS = load_queries("admins", "taximeter.api")
REQUESTS = load_queries("requests", "taximeter.api")
REPORTS = load_queries("reports", "taximeter.api")
PRICES = load_queries("prices", "taximeter.api")
RECEIVERS = load_queries("receivers", "taximeter.api")
BOOKS = load_queries("books", "taximeter.api")
LIVE = load_queries("live", "taximeter.api")
BROWSER_SESSIONS = load_queries("browser_sessions", "taximeter.api")
