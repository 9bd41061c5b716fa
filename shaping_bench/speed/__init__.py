"""``make speed``: exact encounters, play and preparations, timed beside other people's code."""
