"""The services of a run and how they are wired: media, weight store, sessions, scaling."""
