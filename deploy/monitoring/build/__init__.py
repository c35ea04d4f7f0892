"""Builds dashboards, objectives and manifests; `python -m deploy.monitoring.build` writes them."""
