"""The documents of the commands as text: a function per command."""
