"""How a call waits, as a task or as a thread, and never for itself. Nothing here knows of stores."""
