"""The steps of `rvsm.shrink`: what is constant, what is needed, what stays, and the cut."""
