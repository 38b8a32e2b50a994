"""The cases. A directory is a profile; each case names the requirements that it checks."""
