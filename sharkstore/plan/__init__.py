"""From stats and a policy to a plan: what happens to each table. Pure functions."""
