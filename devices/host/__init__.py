"""This machine: processes that end with ours, folders that go away, locks, nothing left behind."""
