"""Inference with bounded activation memory, for machines without an accelerator."""
