"""Labels over HTTP: `http` speaks, `core` schedules."""
