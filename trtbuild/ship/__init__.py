"""Where builds live on disk."""
