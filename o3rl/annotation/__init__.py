"""From videos to STGR rows: a vision model annotates, and what it says is checked."""
