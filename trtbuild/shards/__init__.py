"""Folders of samples: packed from what the user has, checked, and compared with live traffic."""
