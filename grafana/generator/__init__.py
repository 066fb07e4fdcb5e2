"""Dashboards as code: model.py (what Grafana's JSON is made of), style.py (how our panels look), facts.py (names,
thresholds and words from the rest of the repository), and one module per dashboard."""
