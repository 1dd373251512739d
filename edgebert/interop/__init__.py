"""The forms in which other tools report timings: read where they time a model of ours, written for those who compare."""
