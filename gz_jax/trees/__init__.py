"""The decision trees of the surveys as files, and the class of a tree that is read from one."""
