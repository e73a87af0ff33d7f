"""Ranges chosen by the error that they cause at the model's outputs (`method = "auto"`)."""
