"""`make dashboards`: brings the committed dashboards up to date."""

from dashboards.grafana.build import write

write()
