"""The policy server: wire format, settings, engine, alignment supervision and HTTP routes."""
