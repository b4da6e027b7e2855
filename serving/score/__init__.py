"""The routes that score, and the threads that compute their answers."""
