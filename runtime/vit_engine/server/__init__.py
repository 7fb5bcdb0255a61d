"""Labels over HTTP: `http` speaks, `core` schedules requests into batches."""
