"""Loading trained networks, prediction, and tables of predictions."""
