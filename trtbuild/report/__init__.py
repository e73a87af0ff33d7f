"""The reports of a golden check: one document, and what is made of it for CI, for people, for Netron."""
