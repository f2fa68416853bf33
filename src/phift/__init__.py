"""Fine-tune Phi models on Azure Machine Learning: one typed, checked, resumable run."""

__version__ = "0.1.0"
