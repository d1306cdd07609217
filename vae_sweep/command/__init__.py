"""The command line: what is typed, checked and composed into points."""
