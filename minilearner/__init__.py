"""minilearner."""
