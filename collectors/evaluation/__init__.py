"""What `flipwatch evaluate` judges the correlator on, and how."""
