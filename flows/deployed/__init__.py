"""The flows that a person starts from Prefect's page: one module for each."""
