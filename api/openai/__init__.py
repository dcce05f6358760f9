"""Speaks OpenAI's HTTP interface: what requests may say, and what answers bring. No I/O."""
