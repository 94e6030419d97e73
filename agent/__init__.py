"""One machine: error sources, journal, scrubber, and the HTTP face that Prometheus and the collector read."""
