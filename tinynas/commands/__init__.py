"""What each command does: functions that return the object which ``--json`` prints."""
