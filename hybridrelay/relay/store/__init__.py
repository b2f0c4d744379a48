"""Where hybrid connections, their rules and their keys are kept."""
