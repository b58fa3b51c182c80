"""RVSM in other people's training loops: Lightning, Accelerate, the Transformers Trainer."""
