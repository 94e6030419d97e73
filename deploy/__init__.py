"""What is installed, and the demonstration."""
