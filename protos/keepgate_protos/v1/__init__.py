"""Package keepgate.v1: the native API."""
