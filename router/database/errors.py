"""What can be wrong with a database, in words for an operator. No message holds a password.

DatabaseUnusable             it, or the program, must be changed before it can be used
└── DatabaseTooNew           a newer program has changed its tables
DatabaseAway                 it does not answer, or not as it should: it may later
"""

from __future__ import annotations


class DatabaseUnusable(Exception):
    """Waiting does not help; the message says what does."""


class DatabaseTooNew(DatabaseUnusable):
    """Its tables were changed by a newer version of the program, which alone knows what they mean."""


class DatabaseAway(Exception):
    """It cannot be reached, or it failed; what was asked of it did not happen, unless it was told to commit."""
