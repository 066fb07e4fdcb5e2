"""Where the figures of a run go: `/metrics` over HTTP for a live one."""
