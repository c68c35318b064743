"""From submitted inputs to batches on the kernels."""
