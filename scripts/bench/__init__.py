"""The rows of bench.py, a file for each subject. bench.py has the map."""
