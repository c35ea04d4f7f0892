"""The Open Inference Protocol beside the project's own services: Predict for clients of other servers."""
