"""What `rvsm.deploy.bench` is made of: files, runtimes, clocks, memory, tables."""
