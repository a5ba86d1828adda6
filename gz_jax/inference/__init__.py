"""Trained networks: load them, predict with them, and the tables that come of it."""
