"""The command's verbs, by what they are about; command_line.py puts them together."""
