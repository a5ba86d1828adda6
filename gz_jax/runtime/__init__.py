"""Process-level utilities: errors, files, locks, signals, several processes, memory, compilation cache."""
