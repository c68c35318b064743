"""Stubs of the Open Inference Protocol, package `inference`, with Triton's extensions. Generated: see `make protos`."""
