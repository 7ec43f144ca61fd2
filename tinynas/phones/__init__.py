"""Latencies of whole networks that somebody measured on phones: reading them, and predicting the rest."""
