"""MODEL -> CHECKPOINT -> VIDEO: the EMO model, its training and its inference.

May import emo_data, never emo_data.ingest.
"""
