"""The directory: which listeners are registered at which relays."""
