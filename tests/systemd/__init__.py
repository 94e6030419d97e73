"""The services under a real systemd. Run by name: make test-system."""
