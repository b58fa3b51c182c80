"""Scans: pictures and pages of writing as networks need them."""
