"""Who may call what: TLS, tokens, and the interceptor that refuses everybody else. See docs/security.md."""
