"""From names on the command line to files written, one picture at a time."""
