"""How a process lives: errors, files, locks, signals, several processes, memory, compiled programs."""
