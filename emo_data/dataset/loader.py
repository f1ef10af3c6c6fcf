"""Rows read back as clips."""


class ClipReader:
    """stub until store lands"""
