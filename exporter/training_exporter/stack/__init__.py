"""The servers around a training: find, configure and start Prometheus, Alertmanager, Grafana and the local inbox.

Nothing in here is imported by a training. `trading-llm demo`, the compose file's `config` and `inbox` services and
the end-to-end tests use it, so that all of them run the very same configuration files.
"""
