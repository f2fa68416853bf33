"""From the pipeline job to the registered model."""
