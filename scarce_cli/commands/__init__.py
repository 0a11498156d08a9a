"""One thin file per sub-command: parse, load, call, print."""
