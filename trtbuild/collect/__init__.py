"""Every sample through the float model, every value of every tensor into a histogram."""
