"""inference.GRPCInferenceService: the Open Inference Protocol with Triton's extensions. See docs/oip.md."""
