"""Sites that learn together: they exchange what they counted, and everybody ends with the same sums."""
