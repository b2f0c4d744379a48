"""Which relay has a listener of which hybrid connection."""
