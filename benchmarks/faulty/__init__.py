"""What can go wrong with a run, by kind; ``faults.py`` runs it and counts."""
