"""Scene and camera in, pixels out: readers, camera contract, rasterizers, scene store and the Triton model."""
