"""Training: the teacher, and the recovery of what the cuts cost."""
