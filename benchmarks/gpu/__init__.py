"""What benchmarks/gpu_check.py is made of: steps with limits, the parts they form, and what they run."""
