"""The cases of hostile.py, a file for each subject. hostile.py has the map."""
