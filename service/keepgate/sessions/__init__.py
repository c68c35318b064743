"""What the server knows of every sequence: positions, replies, times to live."""
