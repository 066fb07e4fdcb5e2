"""HTTP for the parts that serve: one server, its options, and who may ask it (TLS, passwords, a token)."""
