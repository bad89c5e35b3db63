"""STGR rows: read from what people have, checked, mixed, and kept as Parquet."""
