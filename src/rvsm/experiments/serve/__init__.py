"""A page on this machine to try a network: draw or drop a scan, see the answer and why."""
