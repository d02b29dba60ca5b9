"""The scoring job on Ray Data: plan, score, account."""
