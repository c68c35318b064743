"""What whoever runs the server sees of it: metrics, traces, and one log line a call."""
