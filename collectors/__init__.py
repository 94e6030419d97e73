"""The centre: faults of many agents become novel counts, bursts and alerts."""
