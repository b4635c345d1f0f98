"""Model files: what their headers say, and where they come from when they are not on this machine."""
