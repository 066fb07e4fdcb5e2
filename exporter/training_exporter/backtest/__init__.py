"""Replays finished runs through the same run state and the real alert rules on a real Prometheus.

record on disk -> events -> run state -> families, sampled as scrapes -> blocks -> Prometheus -> rules -> alerts
"""
