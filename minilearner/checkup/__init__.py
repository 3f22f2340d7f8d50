"""Before a long run: what is likely to go wrong with a learner, in plain words, within seconds."""
