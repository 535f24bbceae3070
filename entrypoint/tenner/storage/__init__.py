"""Folders, S3, the Hugging Face Hub and https: read, write, verify."""
