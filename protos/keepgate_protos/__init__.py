"""The wire contract of Keepgate: generated protocol buffers and gRPC stubs (`make protos` regenerates)."""
