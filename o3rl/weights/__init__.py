"""What a version of the weights is on its way: manifest, buckets, delta, checksums."""
