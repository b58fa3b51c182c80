"""Measured claims: scripts, and beside each the results that it wrote."""
