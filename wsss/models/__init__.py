"""Networks and the models that are trained."""
