"""The operating system: signals, memory, open files, temporary folders."""
