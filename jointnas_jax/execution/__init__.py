"""Who trains: jobs, their schedule, and the executors of one process and of a Ray cluster."""
