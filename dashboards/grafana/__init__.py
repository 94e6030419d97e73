"""The Grafana dashboards: builders in Python, what they build in JSON, and provisioning files."""
