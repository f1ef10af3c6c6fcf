"""What a person fills in to have something done: one form for each flow, and one for where it runs.

Prefect makes pages of them and refuses what does not fit before anything starts. No form has a place for a secret.
"""
