"""Package inference: the Open Inference Protocol with Triton's extensions."""
