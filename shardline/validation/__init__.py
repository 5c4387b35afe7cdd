"""Judging a merged model: what it computes, how good that is, and whether it is what the ranks trained."""
