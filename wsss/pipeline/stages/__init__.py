"""The pipeline's PTransforms, one module a stage."""
