"""The same decisions over recorded and drawn traffic: no process, no socket, a clock of its own."""
