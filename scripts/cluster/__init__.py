"""A cluster of real nodes, fronts to it and a load, for cluster.py and partition.py."""
