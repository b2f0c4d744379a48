"""Who listens where: which relay has a listener of which hybrid connection."""
