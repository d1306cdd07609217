"""What is on disk, and how it is read; loggers."""
