"""The learner: learns patterns from what happened, and lets them change what the agents do."""
