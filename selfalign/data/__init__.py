"""Robot specs, observations, normalisation, recorded play and the transitions cut from it."""
