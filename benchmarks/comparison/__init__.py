"""Contenders side by side: processes that take turns, statistics of their times, a report."""
